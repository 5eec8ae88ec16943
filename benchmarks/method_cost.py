"""Cost of the training step of every method relative to the standard one.

    python benchmarks/method_cost.py --json=FILE

Whole training steps of ResNet-20 on 32x32 images as in `step_cost.py`, in one process:
each method with its defaults, `introspective` with other sources of similarity too, and
`standard` with mixup and with CutMix. FLOPs and temporary memory are the compiler's own
analysis; times are medians of the ratios of steps taken in turn. A teacher is the
student's network; what its own training costs is not in its students' steps.
"""

import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags
from step_cost import Step, against, measure_all, times
from timing import random_dataset, show

from introspect_jax import methods

FLAGS = flags.FLAGS
flags.DEFINE_list("methods", [], "By default all.")
flags.FLAGS.set_default("classes", ["10"])

STANDARD = {"method.name": "standard"}
# Data options that other systems count among the methods.
MIXED = {
    "mixup": STANDARD | {"data.augment.mixup": 1.0},
    "cutmix": STANDARD | {"data.augment.cutmix": 1.0},
}
# Of the method `introspective`, whose default is the gradient.
SOURCES = {
    "introspective (Grad-CAM)": {"method.introspective.explanation": "grad_cam"},
    "introspective (own logits)": {"method.introspective.source": "own_logits"},
    "introspective (covariance)": {"method.introspective.source": "covariance"},
    "introspective (weight rows)": {"method.introspective.source": "weight_rows"},
}


def variants() -> dict[str, dict]:
    """Name -> changed config fields of every method, `standard` first."""
    named = {name: {"method.name": name} for name in methods.modules()}
    named |= SOURCES | MIXED
    chosen = FLAGS.methods or list(named)
    return {"standard": STANDARD} | {name: named[name] for name in chosen}


def measure(classes: int) -> Iterator[dict]:
    """A row for each method."""
    dataset = random_dataset(classes, 32, 4 * FLAGS.batch_size)
    standard: Step | None = None
    for name, changes in variants().items():
        step = Step(changes, dataset)
        if standard is None:
            standard = step
            standard.warm_up()
        yield {"method": name, "classes": classes, **against(step, standard, 30)}


def show_rows(rows: list[dict]) -> None:
    ratios = ("flops_ratio", "time_ratio", "temp_bytes_ratio")
    show(
        f"{FLAGS.model}, batch {FLAGS.batch_size}: ratios to standard",
        ("classes", "method<", "FLOPs", "time", "memory"),
        [
            (str(row["classes"]), row["method"], *(times(row[name]) for name in ratios))
            for row in rows
        ],
    )


if __name__ == "__main__":
    app.run(lambda _: show_rows(measure_all(measure)))
