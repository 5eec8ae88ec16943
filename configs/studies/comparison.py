"""Introspective learning against the rest, tuned alike.

8 arms; 3 trials each over the range that its paper or code documents (of introspective
learning, of explanations too), on the validation split with a seed that is not used
again; then 4 seeds with the best. Cost: 54 runs, about 40 minutes on 2 CPU cores,
continued with the same command.
"""

from configs.studies._arms import (
    LITTLE,
    LITTLE_DATA,
    STANDARD,
    TEACHER,
    introspective,
)
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


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/comparison.py has no argument, got {arg!r}")
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
