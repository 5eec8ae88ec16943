"""Accuracy beside cost: the variants of `benchmarks/step_cost.py`, trained.

9 arms beside standard training, 3 seeds; about 20 minutes on 2 CPU cores with
`--done=results/doses`, which has the runs of four of them; continued with the same
command.
"""

from configs.studies._arms import (
    KD,
    LITTLE,
    LITTLE_DATA,
    STANDARD,
    TEACHER,
    introspective,
)
from studies import Study, chain, point, product

GROUP_NORM = point("group norm", {"model.small_resnet.norm": "group"})


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/step_cost.py has no argument, got {arg!r}")
    cosine = {"similarity": "cosine"}
    projection = introspective("projection")
    return Study(
        question="What do the cheaper and the dearer forms of introspection cost in "
        "accuracy?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "The default is `projection`: inner products of input gradients. `every "
            "2nd example` and `every 4th example` explain that share of a batch; "
            "`cosine` divides by the norms of the explanations, exact, estimated with "
            "8 probes, or of the last layer alone. With group normalisation training "
            "and explanation share a forward pass; that is another network, so it has "
            "a standard training of its own. FLOPs here are counted before the "
            "compiler merges that pass (2.02x); the compiled step takes 1.68x. "
            f"{TEACHER}"
        ),
        arms=chain(
            STANDARD,
            KD,
            projection,
            introspective("projection, every 2nd example", explain_every=2),
            introspective("projection, every 4th example", explain_every=4),
            introspective("Grad-CAM", explanation="grad_cam"),
            introspective("cosine, 8 probes", norms="probes:8", **cosine),
            introspective("cosine, exact", **cosine),
            introspective("cosine, last layer", norms="last_layer", **cosine),
            product(STANDARD, GROUP_NORM),
            product(projection, GROUP_NORM),
        ),
        seeds=range(3),
        baseline="standard",
        controls=["kd"],
        contrasts=[("projection, group norm", "standard, group norm")],
    )
