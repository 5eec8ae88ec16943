"""Which part of a teacher's soft targets does the work?

Little data, so that a teacher trained on all images knows more than its students: 8
components and standard training, 5 seeds. Cost: 46 runs, about 25 minutes on 2 CPU
cores, continued with the same command.
"""

from introspect_jax.objectives.components import COMPONENTS
from introspect_jax.study import Study, chain, point, product, sweep

LITTLE_DATA = {
    "data.train_examples": 5000,
    "total_steps": 780,
    "eval_steps": 195,
    "checkpoint_steps": 195,
    "log_steps": 39,
}
KD = {
    "method.name": "kd",
    "method.teacher_model": "wrn10_2",
    "method.teacher_examples": -1,
}


def get_study(arg=None):
    if arg:
        raise ValueError(f"configs/studies/components.py takes no argument, got {arg!r}")
    return Study(
        question="Which part of a teacher's soft targets does the work?",
        config="configs/cifar10.py:quick",
        data="CIFAR-10 (JPEG copy) at 16x16 pixels, 5,000 training images",
        about=(
            "The teacher, a WRN-10-2, is trained on all training images that are not "
            "in the validation split, the students on a fixed part of them, for the "
            "same number of steps. All arms share the defaults of `kd`; none is tuned."
        ),
        fields=LITTLE_DATA,
        arms=chain(
            point("standard", {"method.name": "standard"}),
            product(point("kd", KD), sweep("method.kd.component", COMPONENTS)),
        ),
        seeds=range(5),
        baseline="standard",
        controls=["kd, component=full"],
        contrasts=[
            ("kd, component=full", "kd, component=permuted"),
            ("kd, component=full", "kd, component=class_average"),
            ("kd, component=full", "kd, component=others"),
            ("kd, component=class_average", "kd, component=permuted"),
        ],
    )
