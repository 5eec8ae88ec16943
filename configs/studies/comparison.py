"""Introspective learning against the rest, tuned alike.

8 arms; 3 trials each over the range that its paper or code documents (of introspective
learning, of explanations too), on the validation split with a seed that is not used
again; then 4 seeds with the best. Cost: 54 runs, about 40 minutes on 2 CPU cores,
continued with the same command.

`:all` compares every method with its defaults, and the sources of introspection with
soft targets of one entropy, on full images with `configs/cifar10.py:fast` at half
width: 35 arms, 5 seeds. It is for accelerators: a run takes seconds there and half an
hour on 2 CPU cores. Several methods do not train with that recipe's learning rate and
the weights of their papers (`results/comparison_all`); `:clipped` is the same with
gradients clipped to a norm of 1, with which four of them were seen to train.
"""

from configs.studies._arms import (
    LITTLE,
    LITTLE_DATA,
    MIXED,
    STANDARD,
    TEACHER,
    entropy_matched,
    introspective,
)
from introspect_jax import methods
from studies import Study, chain, point, sweep

# What is tried for each arm.
TRIALS = {
    "kd": sweep("method.kd.alpha", [0.5, 0.9, 1.0]),
    "label_smoothing": sweep("method.label_smoothing.epsilon", [0.02, 0.05, 0.1]),
    "confidence_penalty": sweep("method.confidence_penalty.weight", [0.03, 0.1, 0.3]),
    "cs_kd": sweep("method.cs_kd.weight", [0.1, 0.3, 1.0]),
    "ps_kd": sweep("method.ps_kd.alpha", [0.3, 0.5, 0.8]),
    "dml": sweep("method.dml.weight", [0.3, 1.0, 3.0]),
    "introspective": chain(
        introspective("gradient, weight 0.1"),
        introspective("Grad-CAM, weight 0.1", explanation="grad_cam"),
        introspective("Grad-CAM, weight 0.3", explanation="grad_cam", weight=0.3),
    ),
}


# Explanations, and what they must beat: sources without an explanation, without an
# image, without training.
SOURCES = chain(
    introspective("gradient"),
    introspective("Grad-CAM", explanation="grad_cam"),
    introspective("own logits", source="own_logits"),
    introspective("covariance", source="covariance"),
    introspective("weight rows", source="weight_rows"),
    introspective("random network", source="random_network"),
)


def get_study(arg=None):
    if arg not in (None, "all", "clipped"):
        raise ValueError(
            "the argument of configs/studies/comparison.py is 'all' or 'clipped', got "
            f"{arg!r}"
        )
    return everything(clipped=arg == "clipped") if arg else tuned()


def everything(clipped: bool) -> Study:
    """Every method and every control with its defaults, on full images."""
    own = ("standard", "introspective")
    others = chain(
        *(point(n, {"method.name": n}) for n in methods.modules() if n not in own)
    )
    matched = entropy_matched(SOURCES)
    return Study(
        question="How does introspective learning compare with every other method?",
        config="configs/cifar10.py:fast",
        fields={"model.airbench.width": 0.5}
        | ({"optimizer.clip_norm": 1.0} if clipped else {}),
        data="CIFAR-10 (JPEG copy), full images",
        about=(
            "Defaults of every method, of which none is tuned here. Targets of one "
            "temperature differ in entropy, so that sources are compared twice: at the "
            "default temperature, and `matched`, where the temperature of every "
            "example gives its target the entropy of the network's own outputs over "
            "the other classes. Teachers are the network itself, trained on the same "
            "images with another seed: whether `kd` from them helps is not known "
            "beforehand, so that it is a weak control."
        ),
        arms=chain(STANDARD, MIXED, others, SOURCES, matched),
        seeds=range(5),
        baseline="standard",
        controls=["kd"],
        contrasts=[
            (first, control.name)
            for arms in (SOURCES, matched)
            for first in (arm.name for arm in arms[:2])
            for control in (*arms[2:], *point("complement_entropy"))
        ],
    )


def tuned() -> Study:
    """Some methods, with as many trials each."""
    return Study(
        question="How does introspective learning compare with the rest, tuned alike?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=f"Standard training has no option of its own to tune. {TEACHER}",
        arms=chain(
            STANDARD,
            *(point(name, {"method.name": name}) for name in TRIALS),
        ),
        # Others than those of `what_works.py`, whose test results are known.
        seeds=range(10, 14),
        baseline="standard",
        controls=["kd"],
        contrasts=[
            ("introspective", name) for name in TRIALS if name != "introspective"
        ],
        trials=TRIALS,
        tuning_seeds=[100],
    )
