"""Which part of a teacher's soft targets does the work?

Little data, so that a teacher trained on 9 times as many images knows more than its
students: 8 components and standard training, 5 seeds. Cost: 46 runs, about 35 minutes
on 2 CPU cores, continued with the same command.
"""

from configs.studies._arms import KD, LITTLE, LITTLE_DATA, STANDARD, TEACHER
from introspect_jax.objectives.components import COMPONENTS
from studies import Study, chain, product, sweep


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/components.py has no argument, got {arg!r}")
    return Study(
        question="Which part of a teacher's soft targets does the work?",
        config=LITTLE,
        data=LITTLE_DATA,
        about=(
            f"{TEACHER} The weights of `kd` leave little of the cross entropy with the "
            "label. The targets of `others` and `uniform` do not contain the label, so "
            "compare these two with each other; likewise `ground_truth` and "
            "`permuted`. `dkpp` equals `permuted` except where the teacher's most "
            "probable class is not the label: there it keeps that class. All arms "
            "share the defaults of `kd`; none is tuned."
        ),
        arms=chain(STANDARD, product(KD, sweep("method.kd.component", COMPONENTS))),
        seeds=range(5),
        baseline="standard",
        controls=["kd, component=full"],
        contrasts=[
            ("kd, component=full", "kd, component=permuted"),
            ("kd, component=full", "kd, component=class_average"),
            ("kd, component=full", "kd, component=others"),
            ("kd, component=class_average", "kd, component=permuted"),
            ("kd, component=others", "kd, component=uniform"),
            ("kd, component=permuted", "kd, component=ground_truth"),
        ],
    )
