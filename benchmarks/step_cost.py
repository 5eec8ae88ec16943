"""What introspection costs: its training step against the standard one.

    python benchmarks/step_cost.py --classes=10,100,1000 --json=FILE

Whole training steps of ResNet-20 on 32x32 images (augmentation, gradients, update), in
one process. FLOPs and temporary memory are the compiler's own analysis; times are
medians of the ratios of steps taken in turn. Where a step needs more memory than there
is, its time is null: the analysis needs no run.
"""

import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags, logging
from timing import free_bytes, random_dataset, record, show

from introspect_jax.config import default_config
from introspect_jax.train.experiment import build

FLAGS = flags.FLAGS
flags.DEFINE_list("classes", ["10", "100", "1000"], "Numbers of classes.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
flags.DEFINE_integer("repeats", 9, "Timed steps of each kind.")
flags.DEFINE_string("model", "resnet20", "The network.")
flags.DEFINE_string("dtype", "float32", "Of its activations.")
flags.DEFINE_string("json", None, "Where to write the rows.")

METHODS = (
    ("standard", None, None),
    ("introspective", "projection", "exact"),
    ("introspective", "cosine", "exact"),
    ("introspective", "cosine", "last_layer"),
)


class Step:
    """A compiled training step with its own state and batch."""

    def __init__(self, method, similarity, norms, dataset):
        config = default_config()
        config.batch_size = FLAGS.batch_size
        config.eval_batch_size = FLAGS.batch_size
        config.model.name, config.model.dtype = FLAGS.model, FLAGS.dtype
        config.data.validation_fraction = 0.0
        config.data.augment.crop_padding = 4
        config.data.augment.flip = True
        config.method.name = method
        if similarity:
            config.method.introspective.similarity = similarity
            config.method.introspective.norms = norms
        self.experiment = build(config, dataset, jax.devices()[:1])
        self.batch = next(self.experiment.batches(0))
        abstract = self.experiment.abstract_state()
        self.run = self.experiment.train_step.lower(abstract, self.batch).compile()
        self.flops = self.run.cost_analysis()["flops"]
        self.temp_bytes = self.run.memory_analysis().temp_size_in_bytes
        self.state = None

    def seconds(self) -> float:
        if self.state is None:
            self.state = self.experiment.init_state()
        jax.block_until_ready(self.state)
        began = time.perf_counter()
        self.state, metrics = self.run(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))
        return time.perf_counter() - began


def measure(classes: int) -> list[dict]:
    """A row for each method, relative to the first."""
    dataset = random_dataset(classes, 32, 2 * FLAGS.batch_size)
    rows, standard = [], None
    for method, similarity, norms in METHODS:
        step = Step(method, similarity, norms, dataset)
        standard = standard or step
        time_ratio = 1.0 if step is standard else None
        if step is not standard and step.temp_bytes < free_bytes():
            standard.seconds(), step.seconds()  # warm-up
            pairs = []
            for _ in range(FLAGS.repeats):
                own, base = step.seconds(), standard.seconds()
                pairs.append((own, base))
                if sum(own for own, _ in pairs) > 60 and len(pairs) >= 3:
                    break
            time_ratio = statistics.median(own / base for own, base in pairs)
        rows.append(
            {
                "method": method,
                "similarity": similarity,
                "norms": norms,
                "classes": classes,
                "flops_ratio": step.flops / standard.flops,
                "time_ratio": time_ratio,
                "temp_bytes_ratio": step.temp_bytes / standard.temp_bytes,
                "gflops": step.flops / 1e9,
                "temp_mib": step.temp_bytes / 2**20,
            }
        )
    return rows


def show_rows(rows: list[dict]) -> None:
    lines = []
    for row in rows:
        name = row["method"]
        if row["similarity"]:
            name = row["similarity"]
        if name == "cosine":
            name += f" ({row['norms']})"
        taken = row["time_ratio"]
        lines.append(
            (
                str(row["classes"]),
                name,
                f"{row['flops_ratio']:.2f}x",
                "no room" if taken is None else f"{taken:.2f}x",
                f"{row['temp_bytes_ratio']:.2f}x",
                f"{row['temp_mib']:,.0f}",
            )
        )
    show(
        f"{FLAGS.model}, batch {FLAGS.batch_size}: ratios to standard",
        ("classes", "method<", "FLOPs", "time", "memory", "MiB"),
        lines,
    )


def main(_):
    logging.set_verbosity(logging.WARNING)
    rows = [row for classes in FLAGS.classes for row in measure(int(classes))]
    show_rows(rows)
    record(FLAGS.json, rows, model=FLAGS.model, batch_size=FLAGS.batch_size)


if __name__ == "__main__":
    app.run(main)
