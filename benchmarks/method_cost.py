"""Cost of the training step of every method relative to the standard one.

    python benchmarks/method_cost.py --json=FILE

Whole training steps of ResNet-20 on 32x32 images as in `step_cost.py`, each method with
its defaults, and `standard` with mixup and with CutMix, in one process. FLOPs and
temporary memory are the compiler's own analysis; times are medians of the ratios of
steps taken in turn. A teacher is the student's network; what its own training costs is
not in its students' steps.
"""

import pathlib
import sys
from collections.abc import Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags, logging
from step_cost import Step
from timing import free_bytes, median_ratio, random_dataset, record, show, take_turns

from introspect_jax import cpu, methods

FLAGS = flags.FLAGS
flags.DEFINE_list("methods", [], "By default all.")
flags.FLAGS.set_default("classes", ["10"])

STANDARD = {"method.name": "standard"}
# Data options that other systems count among the methods.
MIXED = {
    "mixup": STANDARD | {"data.augment.mixup": 1.0},
    "cutmix": STANDARD | {"data.augment.cutmix": 1.0},
}


def variants() -> dict[str, dict]:
    """Name -> changed config fields of every method, `standard` first."""
    named = {name: {"method.name": name} for name in methods.modules()} | MIXED
    chosen = FLAGS.methods or list(named)
    return {"standard": STANDARD} | {name: named[name] for name in chosen}


def measure(classes: int) -> Iterator[dict]:
    """A row for each method."""
    dataset = random_dataset(classes, 32, 4 * FLAGS.batch_size)
    standard: Step | None = None
    for name, changes in variants().items():
        step, ratio = Step(changes, dataset), None
        if standard is None:
            standard, ratio = step, 1.0
            standard.warm_up()
        elif step.temp_bytes < free_bytes():
            step.warm_up()
            taken = take_turns(
                {"own": step, "standard": standard}, FLAGS.repeats, most_seconds=30
            )
            ratio = median_ratio(taken["own"], taken["standard"])
        yield {
            "method": name,
            "classes": classes,
            "flops_ratio": step.flops / standard.flops,
            "time_ratio": ratio,
            "temp_bytes_ratio": step.temp_bytes / standard.temp_bytes,
            "gflops": step.flops / 1e9,
        }


def show_rows(rows: list[dict]) -> None:
    lines = [
        (
            str(row["classes"]),
            row["method"],
            f"{row['flops_ratio']:.2f}x",
            "no room" if row["time_ratio"] is None else f"{row['time_ratio']:.2f}x",
            f"{row['temp_bytes_ratio']:.2f}x",
        )
        for row in rows
    ]
    show(
        f"{FLAGS.model}, batch {FLAGS.batch_size}: ratios to standard",
        ("classes", "method<", "FLOPs", "time", "memory"),
        lines,
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.fast_cpu:
        cpu.switch_on()
    rows = []
    for classes in FLAGS.classes:
        for row in measure(int(classes)):
            rows.append(row)
            # Now, not at the end: what is known stays if the process is stopped.
            record(
                FLAGS.json,
                rows,
                model=FLAGS.model,
                batch_size=FLAGS.batch_size,
                dtype=FLAGS.dtype,
            )
    show_rows(rows)


if __name__ == "__main__":
    app.run(main)
