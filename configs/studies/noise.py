"""Little data and noisy labels: where soft targets should matter most.

20 and 40 % of the training and validation labels are wrong: 7 arms, 3 seeds. Cost: 44
runs, about 30 minutes on 2 CPU cores, continued with the same command. The same arms
without noise, but for label smoothing, are in `what_works.py:doses` at weight 0.1.
"""

from configs.studies._arms import (
    AGAINST_WEIGHT_ROWS,
    LITTLE,
    LITTLE_DATA,
    TEACHER,
    UNTUNED,
)
from studies import Study, sweep


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/noise.py has no argument, got {arg!r}")
    return Study(
        question="Does introspective learning help where labels are few and noisy?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            f"{TEACHER} The same share of its labels is wrong. All arms have the "
            "defaults of their methods; none is tuned."
        ),
        settings=sweep("data.label_noise", [0.2, 0.4]),
        arms=UNTUNED,
        seeds=range(3),
        baseline="standard",
        controls=["kd", "label smoothing"],
        contrasts=AGAINST_WEIGHT_ROWS,
    )
