"""Speed of training compared with PyTorch: same network, recipe and precision.

    python benchmarks/training_speed.py --json=FILE

Whole training steps of ResNet-20 on 32x32 images that are on the device as uint8:
gather, normalise, crop, flip, gradients, update. Standard training, and introspective
training compared with PyTorch that takes a backward pass for each class and with the
fastest way known in PyTorch. Both sides must compute the same before they are timed in
turns; ratios are medians. Compilation is not timed. The step in JAX also computes the
metrics that it logs. The benchmark needs torch, a C++ compiler for `torch.compile` on
CPU, and an idle machine (see `attribution_speed.py`).
"""

import contextlib
import os
import pathlib
import shutil
import statistics
import sys

# Both sides share the memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
import torch
import torch_training
from absl import app, flags, logging
from timing import median_ratio, random_dataset, record, seconds, show, take_turns
from torch_agreement import Ours, compare, torch_batch
from torch_models import drawn_variables, from_flax

from introspect_jax.config import default_config
from introspect_jax.machine import usable_cpus
from introspect_jax.train.trainer import build

FLAGS = flags.FLAGS
flags.DEFINE_list("classes", ["10", "100"], "Numbers of classes.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
flags.DEFINE_integer("repeats", 7, "Timed turns.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
flags.DEFINE_list(
    "compiled", ["10"], "Those at which torch.compile is tried too, for some minutes."
)
flags.DEFINE_integer("threads", 0, "Of PyTorch; 0 is a thread a processor.")
flags.DEFINE_string("json", None, "Where to write the rows.")

MODEL = "resnet20"
# Least ratios, PyTorch's time to this side's: classes -> goal.
STANDARD_GOAL, USUAL_GOALS = 1.0, {10: 2.0, 100: 20.0}
# A turn is steps that take about this many seconds together, so that waiting for the
# device at its end weighs little; turns of one kind end after a while.
TURN_SECONDS, MOST_STEPS, MOST_SECONDS = 0.2, 100, 15.0


def make_config(method: str, batch_size: int, augmented: bool = True):
    config = default_config()
    config.batch_size = config.eval_batch_size = batch_size
    config.model.name, config.model.dtype = MODEL, FLAGS.dtype
    config.data.validation_fraction = 0.0
    config.data.augment.crop_padding = 4 if augmented else 0
    config.data.augment.flip = augmented
    config.optimizer.schedule = "constant"
    config.method.name = method
    config.method.introspective.ramp_up = 0.0
    return config


def turn(step, wait):
    """`(steps, function)`: a function that takes so many steps and waits, warmed up."""
    step()
    wait()
    one = seconds(lambda: (step(), wait()))
    steps = int(min(max(TURN_SECONDS / one, 1), MOST_STEPS))

    def run() -> None:
        for _ in range(steps):
            step()
        wait()

    return steps, run


def their_steps(method: str, classes: int, batch) -> dict[tuple[str, str], object]:
    """`(kind, way) -> torch_training.Step`, those that are to be tried."""
    pool, index = torch_batch(batch)
    variables = drawn_variables(MODEL, classes, np.random.RandomState(1))
    ways = [None] if method == "standard" else list(torch_training.WAYS)
    kinds = ["eager", "compile"] if str(classes) in FLAGS.compiled else ["eager"]
    return {
        (kind, way or ""): torch_training.Step(
            from_flax(MODEL, variables),
            pool,
            index,
            make_config(method, FLAGS.batch_size),
            way=way,
            dtype=getattr(torch, FLAGS.dtype),
            compiled=kind == "compile",
        )
        for kind in kinds
        for way in ways
        # "torch.compile with aot_autograd does not currently support double backward"
        if (kind, way) != ("compile", "twice backward")
    }


def measure(method: str, classes: int) -> list[dict]:
    """A row for each way of PyTorch."""
    dataset = random_dataset(classes, 32, 4 * FLAGS.batch_size)
    variables = drawn_variables(MODEL, classes, np.random.RandomState(1))
    config = make_config(method, FLAGS.batch_size)
    ours = Ours(build(config, dataset, jax.devices()[:1]), variables)
    sides, steps, failed = {}, {}, {}
    steps["here"], sides["here"] = turn(ours, ours.wait)
    for name, step in their_steps(method, classes, ours.batch).items():
        try:
            steps[name], sides[name] = turn(step, torch_training.wait)
        except Exception as error:  # what torch.compile cannot, it says in many ways
            if name[0] == "eager":
                raise
            failed[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    taken = take_turns(sides, FLAGS.repeats, most_seconds=MOST_SECONDS)
    rows = []
    for kind, way in [name for name in sides if name != "here"] + list(failed):
        name = (kind, way)
        row = {
            "method": method,
            "classes": classes,
            "torch": kind,
            "way": way,
            "ratio": None,
            "failed": failed.get(name),
        }
        if name in sides:
            here = [t / steps["here"] for t in taken["here"]]
            there = [t / steps[name] for t in taken[name]]
            row |= {
                "ratio": median_ratio(there, here),
                "images_per_second_here": FLAGS.batch_size / statistics.median(here),
                "images_per_second_there": FLAGS.batch_size / statistics.median(there),
                "repeats": len(there),
            }
        rows.append(row)
    return rows


def verdicts(rows: list[dict]) -> list[dict]:
    """The goals, each against PyTorch's fastest of its kind."""
    goals = []
    for classes in sorted({row["classes"] for row in rows}):
        for method, way, goal in (
            ("standard", "", STANDARD_GOAL),
            ("introspective", "every class", USUAL_GOALS.get(classes)),
        ):
            ratios = [
                row["ratio"]
                for row in rows
                if (row["classes"], row["method"], row["way"]) == (classes, method, way)
                and row["ratio"] is not None
            ]
            if goal is not None and ratios:
                least = min(ratios)
                goals.append(
                    {
                        "method": method,
                        "classes": classes,
                        "goal": goal,
                        "ratio": least,
                        "met": least >= goal,
                    }
                )
    return goals


def write(rows: list[dict], checks: dict[int, dict[str, float]]) -> None:
    record(
        FLAGS.json,
        rows,
        torch=torch.__version__,
        torch_threads=torch.get_num_threads(),
        model=MODEL,
        batch_size=FLAGS.batch_size,
        dtype=FLAGS.dtype,
        largest_differences=checks,
        goals=verdicts(rows),
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    torch_training.check_device()
    torch_training.tune()
    torch.set_num_threads(FLAGS.threads or len(usable_cpus()))
    # The backward pass of a compiled network is called for every class.
    with contextlib.suppress(ImportError):
        import torch._functorch.config as functorch

        functorch.donated_buffer = False
    if not shutil.which(os.environ.get("CXX", "g++")):
        print("no C++ compiler: torch.compile is not run")
        FLAGS.compiled = []
    rows, checks = [], {}
    for classes in map(int, FLAGS.classes):
        checks[classes] = compare(MODEL, classes, make_config)
        shown = ", ".join(
            f"{name} {apart:.0e}" for name, apart in checks[classes].items()
        )
        print(f"{classes} classes, largest differences in float64: {shown}", flush=True)
        # Standard training hardly depends on the number of classes.
        for method in ["introspective"] if rows else ["standard", "introspective"]:
            rows += measure(method, classes)
            # Now, not at the end: what is known stays if the process is stopped.
            write(rows, checks)
    show(
        f"{MODEL}, batch {FLAGS.batch_size}, {FLAGS.dtype}: PyTorch's time over ours",
        ("K", "method<", "PyTorch<", "way<", "ratio"),
        [
            (
                str(row["classes"]),
                row["method"],
                row["torch"],
                row["way"],
                row["failed"] or f"{row['ratio']:.2f}x",
            )
            for row in rows
        ],
    )
    for goal in verdicts(rows):
        print(
            f"goal: {goal['method']}, {goal['classes']} classes, at least "
            f"{goal['goal']:g}x: {goal['ratio']:.2f}x, "
            + ("met" if goal["met"] else "MISSED")
        )


if __name__ == "__main__":
    app.run(main)
