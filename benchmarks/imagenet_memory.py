"""Memory of a training step on ImageNet on each of eight devices, without a run.

    python benchmarks/imagenet_memory.py --json=FILE

ResNet-50, 1,000 classes, 224 pixels, the batch of `configs/imagenet.py` divided among
eight virtual CPU devices: the step is traced, divided and compiled, and its memory is
taken from the compiler's analysis. The script fails above `--limit_gib`, by default the
memory of a TPU v4 chip. CPUs use float32 for values that the config has in bfloat16, so
an accelerator needs less.
"""

import os
import pathlib
import sys

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import time

import numpy as np
from absl import app, flags, logging
from timing import record, show

from configs import imagenet
from introspect_jax.data.sources import Dataset, Source
from introspect_jax.train.trainer import build

FLAGS = flags.FLAGS
flags.DEFINE_float("limit_gib", 32.0, "GiB a device that no row may exceed.")
flags.DEFINE_string("json", None, "Where to write the rows.")

# Name -> config fields that are changed.
VARIANTS = {
    "standard": {"method.name": "standard"},
    "introspective": {},
    "introspective, remat": {"model.remat": True},
    "introspective, 4 micro-batches": {"accumulation_steps": 4},
}


def unread(count: int, size: int) -> Source:
    def read(numbers):
        shape = (len(numbers), size, size, 3)
        return np.zeros(shape, np.uint8), np.zeros(len(numbers), np.int32)

    return Source(read, np.arange(count))


def measure(name: str, changes: dict) -> dict:
    config = imagenet.get_config()
    config.update_from_flattened_dict(changes)
    size = config.data.load_size
    train, held_out = unread(1_281_167, size), unread(50_000, size)
    classes = tuple(str(number) for number in range(1000))
    trainer = build(
        config, Dataset(train, held_out, held_out, classes, (size, size, 3))
    )
    batch = trainer.loader.abstract_batch(trainer.abstract_constants())
    began = time.monotonic()
    compiled = trainer.train_step.lower(trainer.abstract_state(), batch).compile()
    seconds = time.monotonic() - began
    memory = compiled.memory_analysis()
    gib = {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        # The new state takes the place of the old one.
        "results": memory.output_size_in_bytes - memory.alias_size_in_bytes,
    }
    gib = {kind: size / 2**30 for kind, size in gib.items()}
    return {
        "variant": name,
        "batch_size": config.batch_size,
        "devices": trainer.parallel.mesh.size,
        **{f"{kind}_gib": value for kind, value in gib.items()},
        "total_gib": sum(gib.values()),
        "compile_seconds": seconds,
    }


def main(_):
    logging.set_verbosity(logging.WARNING)
    rows = [measure(name, changes) for name, changes in VARIANTS.items()]
    size, devices = rows[0]["batch_size"], rows[0]["devices"]
    show(
        f"ResNet-50, {size} images on {devices} devices: GiB a device",
        ("variant<", "arguments", "temporaries", "together"),
        [
            (
                row["variant"],
                f"{row['arguments_gib']:.2f}",
                f"{row['temporaries_gib']:.2f}",
                f"{row['total_gib']:.2f}",
            )
            for row in rows
        ],
    )
    record(FLAGS.json, rows, limit_gib=FLAGS.limit_gib)
    largest = max(rows, key=lambda row: row["total_gib"])
    if largest["total_gib"] > FLAGS.limit_gib:
        sys.exit(
            f"error: {largest['variant']} takes {largest['total_gib']:.1f} GiB a "
            f"device, more than {FLAGS.limit_gib:g}"
        )


if __name__ == "__main__":
    app.run(main)
