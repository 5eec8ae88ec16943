"""Cost of class similarity compared with explaining every class.

    python benchmarks/class_similarity.py --json=FILE

`class_similarity` takes one VJP and its transpose, whatever the number of classes. The
plain way explains each class (`explain_fn(..., "all")`) and takes inner products with
the explanation of the label. Both give `dot` similarities of ResNet-20 on 32x32 images,
float32. FLOPs and temporary memory are the compiler's own analysis; times are medians
of turns. Where explaining all classes at once needs too much memory, `class_chunk_size`
of them are explained at once to be timed and compared. Where that needs too much memory
too, the time is null.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags
from timing import free_bytes, record, show

from introspect_jax import cli, cpu
from introspect_jax.explain import (
    Gradient,
    IntegratedGradients,
    SmoothGrad,
    class_similarity,
    explain_fn,
)
from introspect_jax.models import build, make_logits_fn

FLAGS = flags.FLAGS
flags.DEFINE_list("classes", ["10", "100", "1000"], "Numbers of classes.")
flags.DEFINE_integer("batch_size", 2, "Images.")
flags.DEFINE_integer("repeats", 3, "Timed turns, but one where it takes long.")
cli.define_cpu_flag()
flags.DEFINE_string("json", None, "Where to write the rows.")

SLOW = 10.0  # seconds; after a longer turn there is no other
EXPLANATIONS = {
    "gradient": Gradient(),
    "smoothgrad": SmoothGrad(num_samples=8),
    "integrated_gradients": IntegratedGradients(num_steps=16),
}


class Program:
    """A compiled function of `(logits_fn, images, labels)` and its costs."""

    def __init__(self, model, arguments, function):
        def run(variables, images, labels):
            return function(make_logits_fn(model, variables), images, labels)

        self.run = cpu.jit(run).lower(*arguments).compile()
        self.arguments = arguments
        self.flops = self.run.cost_analysis()["flops"]
        self.temp_bytes = self.run.memory_analysis().temp_size_in_bytes

    def __call__(self) -> tuple[np.ndarray, float]:
        """What it gives, and the seconds that took."""
        began = time.perf_counter()
        result = jax.block_until_ready(self.run(*self.arguments))
        return np.asarray(result), time.perf_counter() - began


def measure(classes: int, name: str) -> dict:
    model = build("resnet20", classes)
    generator = np.random.RandomState(0)
    images = generator.normal(size=(FLAGS.batch_size, 32, 32, 3)).astype(np.float32)
    labels = generator.randint(classes, size=FLAGS.batch_size)
    variables = model.init(jax.random.key(0), images)
    arguments = jax.device_put((variables, images, labels))
    explanation, key = EXPLANATIONS[name], jax.random.key(1)

    def constant_cost(f, x, y):
        return class_similarity(f, x, y, explanation, "dot", key=key)

    def all_classes(chunk):
        def function(f, x, y):
            maps = explain_fn(f, x, "all", explanation, class_chunk_size=chunk, key=key)
            own = maps[jnp.arange(len(maps)), y]
            return jnp.einsum("bkhwc,bhwc->bk", maps, own)

        return Program(model, arguments, function)

    constant, everything = Program(model, arguments, constant_cost), all_classes(None)
    runnable, chunk = everything, None
    for parts in (4, 20):
        if runnable.temp_bytes < free_bytes():
            break
        chunk = -(-classes // parts)
        runnable = all_classes(chunk)
    row = {
        "explanation": name,
        "classes": classes,
        "batch": FLAGS.batch_size,
        "flops_constant": constant.flops,
        "flops_all": everything.flops,
        "flops_ratio": everything.flops / constant.flops,
        "seconds_constant": None,
        "seconds_all": None,
        "temp_bytes_constant": constant.temp_bytes,
        "temp_bytes_all": everything.temp_bytes,
        "largest_difference": None,
        "class_chunk_size": chunk,
        "repeats": 0,
    }
    constant()  # warm-up
    own, taken = constant()
    if runnable.temp_bytes < free_bytes():
        other, taken_all = runnable()
        pairs = [(taken, taken_all)]
        if taken_all < SLOW:  # then that was a warm-up
            pairs = [(constant()[1], runnable()[1]) for _ in range(FLAGS.repeats)]
        row["seconds_all"] = statistics.median(slow for _, slow in pairs)
        row["largest_difference"] = float(np.abs(own - other).max() / np.abs(own).max())
    else:
        pairs = [(constant()[1], None) for _ in range(FLAGS.repeats)]
    row["seconds_constant"] = statistics.median(fast for fast, _ in pairs)
    row["repeats"] = len(pairs)
    return row


def show_rows(rows: list[dict]) -> None:
    lines = []
    for row in rows:
        slow, apart = row["seconds_all"], row["largest_difference"]
        lines.append(
            (
                str(row["classes"]),
                row["explanation"],
                f"{row['flops_ratio']:.0f}x",
                "no room" if slow is None else f"{slow / row['seconds_constant']:.1f}x",
                f"{row['temp_bytes_constant'] / 2**20:.0f} against "
                f"{row['temp_bytes_all'] / 2**20:,.0f}",
                "" if apart is None else f"{apart:.0e}",
            )
        )
    show(
        f"ResNet-20, batch {FLAGS.batch_size}: all K classes over constant cost",
        ("K", "explanation<", "FLOPs", "time", "MiB", "differ"),
        lines,
    )


def main(_):
    if FLAGS.fast_cpu:
        cpu.switch_on(devices=False)  # two images are not divided
    rows = [
        measure(int(classes), name)
        for classes in FLAGS.classes
        for name in EXPLANATIONS
    ]
    show_rows(rows)
    record(FLAGS.json, rows, model="resnet20", dtype="float32")


if __name__ == "__main__":
    app.run(main)
