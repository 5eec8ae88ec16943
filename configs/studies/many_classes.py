"""Many classes: Tiny ImageNet, where similarity to 199 others can say more.

7 arms, 3 seeds. At 32x32 pixels with ResNet-20 it needs an accelerator; `:little` is
for 2 CPU cores: ResNet-8, 16x16 pixels, 20,000 training images, 22 runs, about 40
minutes, continued with the same command.
"""

from configs.studies._arms import AGAINST_WEIGHT_ROWS, UNTUNED
from studies import Study

LITTLE = {
    "data.load_size": 16,
    "data.augment.crop_padding": 2,
    "data.train_examples": 20_000,
    "model.name": "resnet8",
    "total_steps": 1560,
    "eval_steps": 390,
    "checkpoint_steps": 390,
    "log_steps": 78,
    "method.teacher_examples": -1,
    "method.teacher_steps": 3120,
}
LITTLE_TEACHER = (
    "The teacher of `kd`, a WRN-10-2, is trained on 90,000 images, 4.5 times as many "
    "as its students, and for twice as many steps."
)


def get_study(arg=None):
    if arg not in (None, "little"):
        raise ValueError(
            f"the argument of configs/studies/many_classes.py is 'little', got {arg!r}"
        )
    return Study(
        question="Does introspective learning help where there are many classes?",
        config="configs/tiny_imagenet32.py",
        data="Tiny ImageNet, 200 classes"
        + (", at 16x16 pixels, 20,000 training images" if arg else ", at 32x32 pixels"),
        about=(
            "The arms have the defaults of their methods; none is tuned."
            + (f" {LITTLE_TEACHER}" if arg else "")
        ),
        fields={"method.teacher_model": "wrn10_2"} | (LITTLE if arg else {}),
        arms=UNTUNED,
        seeds=range(3),
        baseline="standard",
        controls=["kd", "label smoothing"],
        contrasts=AGAINST_WEIGHT_ROWS,
    )
