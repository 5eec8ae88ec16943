"""Speed of training compared with PyTorch: same network, recipe and precision.

    python benchmarks/training_speed.py --json=FILE

Whole training steps on images that are on the device as uint8: gather, normalise, crop,
flip, gradients, update. Standard training, and introspective training compared with
PyTorch that takes a backward pass for each class and with the fastest way known in
PyTorch. Both sides must compute the same before they are timed. Each side has a process
of its own, and they take turns; ratios are medians. On CPUs, this package is timed with
the settings that `launch/` chooses and without them, and PyTorch as it is and with
freed memory kept, which helps it as well. The step in JAX also computes the metrics
that it logs. The benchmark needs torch, a C++ compiler for `torch.compile` on CPU, and
an idle machine (see `attribution_speed.py`).
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import shutil
import sys

# Both sides share the memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags, logging
from sides import HERE, OFF, THERE, Failed, medians, open_sides
from timing import median_ratio, record, show
from training_sides import Options, check, make_ours, make_theirs

from introspect_jax.machine import usable_cpus

FLAGS = flags.FLAGS
flags.DEFINE_enum("model", "resnet20", ["resnet20", "resnet8"], "Network.")
flags.DEFINE_integer("size", 32, "Pixels of a side of the images.")
flags.DEFINE_list("classes", ["10", "100"], "Numbers of classes.")
flags.DEFINE_list("methods", ["standard", "introspective"], "Methods.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
flags.DEFINE_integer("repeats", 7, "Timed turns.")
flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of the activations.")
flags.DEFINE_list(
    "compiled", ["10"], "Those at which torch.compile is tried too, for some minutes."
)
flags.DEFINE_integer("cores", 0, "Cores of each side; 0 is all.")
flags.DEFINE_string("json", None, "Where to write the rows.")

# Least ratios, PyTorch's time to this side's.
STANDARD_GOALS = {"resnet20": 0.8, "resnet8": 0.85}
USUAL_GOALS, FASTEST_GOAL = {10: 1.9, 100: 17.0}, 1.3
# Of `torch_training.WAYS`, whose module needs torch.
WAYS = ("every class", "twice backward", "forward mode")


def wanted(method: str, classes: int) -> list[tuple[str, str, str]]:
    """`(method, kind, way)` of PyTorch's steps that are to be tried."""
    ways = [""] if method == "standard" else list(WAYS)
    kinds = ["eager", "compile"] if str(classes) in FLAGS.compiled else ["eager"]
    return [
        (method, kind, way)
        for kind in kinds
        for way in ways
        # "torch.compile with aot_autograd does not currently support double backward"
        if (kind, way) != ("compile", "twice backward")
    ]


def measure(method: str, options: Options) -> tuple[list[dict], dict]:
    """A row for each way of PyTorch, and one of this package alone."""
    functions, made, failed = {}, {}, {}
    cores = usable_cpus()[: FLAGS.cores] if FLAGS.cores else None
    with contextlib.ExitStack() as stack:
        sides = open_sides(stack, make_ours, make_theirs, options, cores)
        for name, side in sides.items():
            ours = name in (HERE, OFF)
            for step in [method] if ours else wanted(method, options.classes):
                key = (name,) if ours else (name, *step[1:])
                try:
                    made[key] = side.make(step)
                    functions[key] = (side, step)
                except Failed as error:
                    if "compile" not in key:
                        raise
                    failed[key] = str(error)
        middle, taken = medians(functions, FLAGS.repeats)
        faults = {key: side.faults(step) for key, (side, step) in functions.items()}
    rows, here = [], (HERE,)
    for key in [key for key in (*functions, *failed) if len(key) > 1]:
        side, kind, way = key
        row = {
            "method": method,
            "classes": options.classes,
            "torch": kind + side.removeprefix(THERE),
            "way": way,
            "ratio": None,
            "failed": failed.get(key),
        }
        if key in functions:
            row |= {
                "ratio": median_ratio(taken[key], taken[here]),
                "images_per_second_here": options.batch_size / middle[here],
                "images_per_second_there": options.batch_size / middle[key],
                "page_faults_there": faults[key],
                "repeats": len(taken[key]),
            }
        rows.append(row)
    own = {"method": method, "classes": options.classes}
    for key in [key for key in functions if len(key) == 1]:
        own[key[0]] = {
            "images_per_second": options.batch_size / middle[key],
            "page_faults": faults[key],
            "compile_seconds": made[key]["seconds"],
            "speed_of_here": median_ratio(taken[key], taken[here]),
        }
    return rows, own


def verdicts(rows: list[dict]) -> list[dict]:
    """The goals, each against PyTorch's fastest of its kind with the C library's own
    settings."""
    goals = []

    def judge(goal, method, classes, kinds, ways, against):
        ratios = [
            row["ratio"]
            for row in rows
            if (row["classes"], row["method"]) == (classes, method)
            and row["torch"] in kinds
            and row["way"] in ways
            and row["ratio"] is not None
        ]
        if ratios:
            least = min(ratios)
            goals.append(
                {
                    "method": method,
                    "classes": classes,
                    "against": against,
                    "goal": goal,
                    "ratio": least,
                    "met": least >= goal,
                }
            )

    both = ("eager", "compile")
    for classes in sorted({row["classes"] for row in rows}):
        goal = STANDARD_GOALS[FLAGS.model]
        judge(goal, "standard", classes, ("eager",), ("",), "eager")
        if FLAGS.model == "resnet20" and classes in USUAL_GOALS:
            given = ("introspective", classes, both)
            judge(USUAL_GOALS[classes], *given, WAYS[:1], "a backward pass a class")
            judge(FASTEST_GOAL, *given, WAYS, "the fastest way")
    return goals


def show_rows(rows: list[dict], alone: list[dict]) -> None:
    name = f"{FLAGS.model}, {FLAGS.size}x{FLAGS.size}, batch {FLAGS.batch_size}"
    show(
        f"{name}, {FLAGS.dtype}: PyTorch's time over ours",
        ("K", "method<", "PyTorch<", "way<", "ratio", "faults"),
        [
            (
                str(row["classes"]),
                row["method"],
                row["torch"],
                row["way"],
                row["failed"] or f"{row['ratio']:.2f}x",
                "" if row["failed"] else f"{row['page_faults_there']:,.0f}",
            )
            for row in rows
        ],
    )
    show(
        f"{name}: this package",
        (
            "K",
            "method<",
            "settings<",
            "images/s",
            "ours faster",
            "faults",
            "compile, s",
        ),
        [
            (
                str(own["classes"]),
                own["method"],
                side,
                f"{own[side]['images_per_second']:,.0f}",
                f"{own[side]['speed_of_here']:.2f}x",
                f"{own[side]['page_faults']:,.0f}",
                f"{own[side]['compile_seconds']:.1f}",
            )
            for own in alone
            for side in (HERE, OFF)
            if side in own
        ],
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    if not shutil.which(os.environ.get("CXX", "g++")):
        print("no C++ compiler: torch.compile is not run")
        FLAGS.compiled = []
    rows, alone, checks = [], [], {}
    for classes in map(int, FLAGS.classes):
        options = Options(
            FLAGS.model, FLAGS.size, classes, FLAGS.batch_size, FLAGS.dtype, FLAGS.cores
        )
        spawn = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            checks[classes], torch_version = pool.submit(check, options).result()
        shown = ", ".join(f"{n} {apart:.0e}" for n, apart in checks[classes].items())
        print(f"{classes} classes, largest differences in float64: {shown}", flush=True)
        for method in FLAGS.methods:
            if method == "standard" and rows:
                continue  # it hardly depends on the number of classes
            more, own = measure(method, options)
            rows, alone = rows + more, [*alone, own]
            # Now, not at the end: what is known stays if the process is stopped.
            record(
                FLAGS.json,
                rows,
                torch=torch_version,
                model=FLAGS.model,
                size=FLAGS.size,
                batch_size=FLAGS.batch_size,
                dtype=FLAGS.dtype,
                cores=FLAGS.cores or len(usable_cpus()),
                largest_differences=checks,
                goals=verdicts(rows),
                this_package=alone,
            )
    show_rows(rows, alone)
    for goal in verdicts(rows):
        print(
            f"goal: {goal['method']}, {goal['classes']} classes, against "
            f"{goal['against']} at least {goal['goal']:g}x: {goal['ratio']:.2f}x, "
            + ("met" if goal["met"] else "MISSED")
        )


if __name__ == "__main__":
    app.run(main)
