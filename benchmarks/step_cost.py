"""Cost of the introspective training step relative to the standard one.

    python benchmarks/step_cost.py --classes=10,100,1000 --json=FILE

Whole training steps of ResNet-20 on 32x32 images (augmentation, gradients, update), in
one process. FLOPs and temporary memory are the compiler's own analysis; times are
medians of the ratios of steps taken in turn. The time of a step that needs too much
memory is null, since the analysis does not need a run. Test top-1 is that of the study
`configs/studies/step_cost.py` for the same variants, in percent, with its difference
from standard training with the same normalisation.
"""

import pathlib
import sys
from collections.abc import Callable, Iterator

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags, logging
from etils import epath
from timing import (
    free_bytes,
    median_ratio,
    random_dataset,
    record,
    show,
    take_turns,
)

from introspect_jax import cli, cpu, methods, models
from introspect_jax.config import default_config
from introspect_jax.data.sources import Dataset
from introspect_jax.methods.teaching import untrained_teacher
from introspect_jax.train.trainer import build
from studies.pages.collect import collect
from studies.pages.statistics import summarise

FLAGS = flags.FLAGS
flags.DEFINE_list("classes", ["10", "100", "1000"], "Numbers of classes.")
flags.DEFINE_integer("batch_size", 64, "Images a step.")
flags.DEFINE_integer("repeats", 9, "Timed steps of each kind.")
flags.DEFINE_string("model", "resnet20", "The network.")
flags.DEFINE_string("dtype", "float32", "Of its activations.")
cli.define_cpu_flag()
flags.DEFINE_string("json", None, "Where to write the rows.")

STANDARD = {"method.name": "standard"}
COSINE = {"method.introspective.similarity": "cosine"}
REMAT = {"model.remat": True}
SHARED = {f"model.{file}.norm": "group" for file in ("resnet", "small_resnet")}
# Name -> changed config fields; each is compared with the last of `BASES` before it.
# With group normalisation the examples are independent, so training and explanation
# have the same forward pass, which the compiler merges.
VARIANTS = {
    "standard": STANDARD,
    "standard, remat": STANDARD | REMAT,
    "projection": {},
    "projection, remat": REMAT,
    "projection, every 2nd example": {"method.introspective.explain_every": 2},
    "projection, every 4th example": {"method.introspective.explain_every": 4},
    "Grad-CAM": {"method.introspective.explanation": "grad_cam"},
    "cosine, 8 probes": COSINE | {"method.introspective.norms": "probes:8"},
    "cosine, exact": COSINE,
    "cosine, last layer": COSINE | {"method.introspective.norms": "last_layer"},
    "standard, group norm": STANDARD | SHARED,
    "projection, group norm": SHARED,
}
BASES = ("standard", "standard, group norm")
STUDY = pathlib.Path(__file__).resolve().parents[1] / "results/step_cost"


def accuracies() -> dict[str, float]:
    """Variant -> mean test top-1 in percent; empty if the study was not run."""
    if not (STUDY / "study.json").exists():
        return {}
    summary = summarise(collect(str(STUDY), epath.Path(STUDY)))
    rows = [row for part in summary["settings"] for row in part["rows"]]
    return {row["arm"]: 100 * row["top1_last"]["mean"] for row in rows}


class Step:
    """A compiled training step with its own state and batch."""

    def __init__(self, changes: dict, dataset: Dataset):
        config = default_config()
        config.batch_size = FLAGS.batch_size
        config.eval_batch_size = FLAGS.batch_size
        config.model.name, config.model.dtype = FLAGS.model, FLAGS.dtype
        config.data.validation_fraction = 0.0
        config.data.augment.crop_padding = 4
        config.data.augment.flip = True
        config.update_from_flattened_dict(changes)
        # A teacher costs the same before it is trained.
        network = teacher = None
        if methods.teacher_kind(config.method.name):
            network = models.from_config(config.model, dataset.num_classes)
            teacher = untrained_teacher(
                network, dataset.image_shape, dataset.num_classes
            )
        self.trainer = build(config, dataset, teacher=network)
        self.batch = next(self.trainer.batches(self.trainer.constants(teacher)))
        abstract = self.trainer.abstract_state()
        self.run = self.trainer.train_step.lower(abstract, self.batch).compile()
        # Of all devices together; the compiler analyses what one of them does.
        devices = self.trainer.parallel.mesh.size
        self.flops = devices * self.run.cost_analysis()["flops"]
        self.temp_bytes = devices * self.run.memory_analysis().temp_size_in_bytes
        self.state = None

    def __call__(self) -> None:
        self.state, metrics = self.run(self.state, self.batch)
        jax.block_until_ready((self.state, metrics))

    def warm_up(self) -> None:
        self.state = self.trainer.init_state()
        self()


def against(step: Step, base: Step, most_seconds: float) -> dict[str, float | None]:
    """Ratios of FLOPs, time and temporary memory to another step, which is warmed up,
    and the FLOPs; the time is None if the step does not fit into the memory."""
    time_ratio = 1.0 if step is base else None
    if step is not base and step.temp_bytes < free_bytes():
        step.warm_up()
        taken = take_turns(
            {"own": step, "base": base}, FLAGS.repeats, most_seconds=most_seconds
        )
        time_ratio = median_ratio(taken["own"], taken["base"])
    return {
        "flops_ratio": step.flops / base.flops,
        "time_ratio": time_ratio,
        "temp_bytes_ratio": step.temp_bytes / base.temp_bytes,
        "gflops": step.flops / 1e9,
    }


def measure(classes: int) -> Iterator[dict]:
    """A row for each variant."""
    dataset = random_dataset(classes, 32, 2 * FLAGS.batch_size)
    standard, base, top1 = None, "", accuracies()
    for name, changes in VARIANTS.items():
        step = Step(changes, dataset)
        if name in BASES:
            standard, base = step, name
            standard.warm_up()
        yield {
            "variant": name,
            "classes": classes,
            **against(step, standard, 60),
            "temp_mib": step.temp_bytes / 2**20,
            "study_top1": top1.get(name),
            "study_top1_difference": (
                top1[name] - top1[base] if {name, base} <= top1.keys() else None
            ),
        }


def times(ratio: float | None) -> str:
    """A ratio in a table; None is that of a step that was not run."""
    return "no room" if ratio is None else f"{ratio:.2f}x"


def show_rows(rows: list[dict]) -> None:
    lines = [
        (
            str(row["classes"]),
            row["variant"],
            times(row["flops_ratio"]),
            times(row["time_ratio"]),
            times(row["temp_bytes_ratio"]),
            f"{row['temp_mib']:,.0f}",
            ""
            if row["study_top1_difference"] is None
            else f"{row['study_top1']:.2f} ({row['study_top1_difference']:+.2f})",
        )
        for row in rows
    ]
    show(
        f"{FLAGS.model}, batch {FLAGS.batch_size}: ratios to standard",
        ("classes", "variant<", "FLOPs", "time", "memory", "MiB", "CIFAR-10 top-1 %"),
        lines,
    )


def measure_all(measure: Callable[[int], Iterator[dict]]) -> list[dict]:
    """The rows of `measure` for each number of classes, recorded as they come."""
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
    return rows


if __name__ == "__main__":
    app.run(lambda _: show_rows(measure_all(measure)))
