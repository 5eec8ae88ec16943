"""Introspective learning against the rest, tuned alike.

8 arms; 3 trials each over the range that its paper or code documents, on the validation
split with a seed that is not used again; then 4 seeds with the best. Cost: 54 runs,
about 30 minutes on 2 CPU cores, continued with the same command.
"""

from configs.studies._arms import LITTLE, LITTLE_DATA, STANDARD
from introspect_jax.study import Study, chain, point, sweep

# Arm -> the fields that choose it, and what is tried.
TUNED = {
    "kd": ({}, "method.kd.alpha", [0.5, 0.9, 1.0]),
    "label_smoothing": ({}, "method.label_smoothing.epsilon", [0.02, 0.05, 0.1]),
    "confidence_penalty": ({}, "method.confidence_penalty.weight", [0.03, 0.1, 0.3]),
    "cs_kd": ({}, "method.cs_kd.weight", [0.1, 0.3, 1.0]),
    "ps_kd": ({}, "method.ps_kd.alpha", [0.3, 0.5, 0.8]),
    "dml": ({}, "method.dml.weight", [0.3, 1.0, 3.0]),
    "introspective": (
        {"method.introspective.explanation": "grad_cam"},
        "method.introspective.weight",
        [0.03, 0.1, 0.3],
    ),
}


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/comparison.py has no argument, got {arg!r}")
    return Study(
        question="How does introspective learning compare with the rest, tuned alike?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            "Standard training has nothing of its own to tune. The teacher of `kd` "
            "is trained on all images, which the others never see."
        ),
        arms=chain(
            STANDARD,
            *(
                point(name, {"method.name": name} | fields)
                for name, (fields, _, _) in TUNED.items()
            ),
        ),
        seeds=range(4),
        baseline="standard",
        controls=["kd"],
        contrasts=[
            ("introspective", name) for name in TUNED if name != "introspective"
        ],
        trials={
            name: sweep(field, values) for name, (_, field, values) in TUNED.items()
        },
        tuning_seeds=[100],
    )
