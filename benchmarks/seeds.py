"""Speed of several seeds in one program compared with one seed after the other.

    python benchmarks/seeds.py --json=FILE

Whole introspective training steps of S seeds, each with its own weights, order and
augmentation. One after the other: S calls of the training step, each on all devices. In
one program: `vmap`, the step mapped over the seeds on one device; and `devices`, the
seeds divided among the devices (on CPU two virtual ones), each of which processes its
seeds in turn. In float64 all must give the same gradients before they are timed in
turns; ratios are medians.
"""

import os
import pathlib
import statistics
import sys
from typing import Any
from unittest import mock

# This affects the CPU only, not accelerators.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
)
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags, logging
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from timing import median_ratio, random_dataset, record, show, take_turns

from introspect_jax import cli, cpu, models
from introspect_jax.config import default_config
from introspect_jax.train.devices import replicated
from introspect_jax.train.state import init_state
from introspect_jax.train.trainer import Trainer, build

FLAGS = flags.FLAGS
flags.DEFINE_list("models", ["resnet8:16", "resnet20:32"], "Networks, name:pixels.")
flags.DEFINE_list("seeds", ["2", "4"], "How many.")
flags.DEFINE_integer("batch_size", 64, "Images a step of one seed.")
flags.DEFINE_integer("repeats", 5, "Timed turns.")
cli.define_cpu_flag()
flags.DEFINE_string("json", None, "Where to write the rows.")

TOLERANCE, CHECKED, MOST_SECONDS = 1e-6, 16, 15.0
WAYS = ("vmap", "devices")


class OneByOne:
    """A call of the training step for every seed."""

    def __init__(self, trainers: list[Trainer]):
        first = trainers[0]

        def init(seed):
            return init_state(first.method, first.optimizer, seed, averaged=False)

        init = jax.jit(init, out_shardings=replicated(first.parallel.mesh))
        self.states = [init(np.uint32(t.config.seed)) for t in trainers]
        self.batches = [next(t.batches(t.constants(None))) for t in trainers]
        # Trainers that differ in their seed alone share one program.
        self.run = first.train_step

    def __call__(self) -> None:
        both = zip(self.states, self.batches, strict=True)
        self.states = [self.run(state, batch)[0] for state, batch in both]
        jax.block_until_ready(self.states)


class Together:
    """One program for all seeds, whose states and batches are stacked in front.

    It starts from the states that the seeds have when it is made.
    """

    def __init__(self, single: OneByOne, way: str, step: Any):
        devices = jax.devices()[: 1 if way == "vmap" else 2]
        mesh = Mesh(np.asarray(devices), ("seed",))
        divided = NamedSharding(mesh, PartitionSpec("seed"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        states = jax.tree.map(lambda *leaves: np.stack(leaves), *single.states)
        self.states = jax.device_put(states, divided)
        self.batch, own = dict(single.batches[0]), ("index", "seed")
        for name, value in self.batch.items():
            if name in own:
                value = np.stack([batch[name] for batch in single.batches])
            # Through NumPy: the devices of another mesh have it now.
            value = jax.tree.map(np.asarray, value)
            place = divided if name in own else everywhere
            self.batch[name] = jax.device_put(value, place)
        axes = {name: 0 if name in own else None for name in self.batch}
        function = jax.vmap(step, in_axes=(0, axes))
        if way == "devices":

            def some(states, batch):
                def one(number):
                    def pick(leaf):
                        return leaf[number]

                    mine = {name: pick(batch[name]) for name in own}
                    return step(jax.tree.map(pick, states), batch | mine)

                results = [one(number) for number in range(len(batch["seed"]))]
                return jax.tree.map(lambda *leaves: jnp.stack(leaves), *results)

            over_seeds = PartitionSpec("seed")
            specs = {n: over_seeds if n in own else PartitionSpec() for n in axes}
            # No replicated values are differentiated, so there is nothing to check.
            function = jax.shard_map(
                some,
                mesh=mesh,
                in_specs=(over_seeds, specs),
                out_specs=over_seeds,
                check_vma=False,
            )
        self.run = cpu.jit(function, donate_argnums=0)

    def __call__(self) -> None:
        self.states, _ = self.run(self.states, self.batch)
        jax.block_until_ready(self.states)


def make_trainers(
    model: str, size: int, count: int, batch: int, devices=None
) -> list[Trainer]:
    """One for each seed, on the devices that a run takes by default."""
    dataset = random_dataset(10, size, 4 * batch)
    trainers = []
    for seed in range(count):
        config = default_config()
        config.seed = seed
        config.batch_size = config.eval_batch_size = batch
        config.model.name = model
        config.data.validation_fraction = 0.0
        config.data.augment.crop_padding = size // 8
        config.data.augment.flip = True
        trainers.append(build(config, dataset, devices))
    return trainers


def make_sides(model: str, size: int, count: int, batch: int) -> dict:
    """`one by one` and each way that there are devices for, before their first step."""
    single = OneByOne(make_trainers(model, size, count, batch))
    (alone,) = make_trainers(model, size, 1, batch, jax.devices()[:1])
    # What is jitted, not the jitted function: that one is for one device.
    step = alone.train_step.__wrapped__
    ways = [way for way in WAYS if way == "vmap" or jax.device_count() > 1]
    return {"one by one": single} | {way: Together(single, way, step) for way in ways}


def differences(model: str, size: int, count: int) -> dict[str, float]:
    """Way -> relative difference of the gradients of all seeds, in the Euclidean norm.

    The momentum after the first step is the gradient with its weight decay. Activations
    are float64: in float32 a ReLU input that is zero up to rounding may fall on either
    side.

    Raises:
      SystemExit: one is above `TOLERANCE`, so that there is nothing to time.
    """
    exact = models.build(model, 10)
    # `build` does not offer float64, which only this check needs.
    exact = exact.clone(backbone=exact.backbone.clone(dtype=np.float64))
    with (
        jax.enable_x64(True),
        mock.patch.object(models, "from_config", return_value=exact),
    ):
        sides = make_sides(model, size, count, CHECKED)
        for side in sides.values():
            side()
    single = sides.pop("one by one")
    expected = [optax.tree.get(state.opt_state, "trace") for state in single.states]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *expected)
    found = {}
    for way, together in sides.items():
        actual = jax.device_get(optax.tree.get(together.states.opt_state, "trace"))
        apart = optax.tree.norm(jax.tree.map(np.subtract, expected, actual))
        found[way] = float(apart / optax.tree.norm(expected))
        if not found[way] <= TOLERANCE:
            raise SystemExit(
                f"{model}, {count} seeds: the gradients of {way!r} differ by "
                f"{found[way]:.1e} of their norm, more than {TOLERANCE:.0e}"
            )
    return found


def measure(model: str, size: int, count: int) -> list[dict]:
    """A row for each way to train the seeds together."""
    apart = differences(model, size, count)
    sides = make_sides(model, size, count, FLAGS.batch_size)
    for side in sides.values():
        side()
    taken = take_turns(sides, FLAGS.repeats, most_seconds=MOST_SECONDS)
    alone = taken["one by one"]
    return [
        {
            "model": model,
            "pixels": size,
            "seeds": count,
            "way": way,
            "largest_difference": apart[way],
            "speedup": median_ratio(alone, taken[way]),
            "seconds": statistics.median(taken[way]),
            "seconds_one_by_one": statistics.median(alone),
            "repeats": len(alone),
        }
        for way in apart
    ]


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.fast_cpu:
        cpu.switch_on()
    if jax.device_count() < 2:
        print("one device: the seeds are not divided")
    rows = []
    for model in FLAGS.models:
        name, size = model.split(":")
        for count in FLAGS.seeds:
            rows += measure(name, int(size), int(count))
    show(
        f"Steps of all seeds, batch {FLAGS.batch_size}: one by one over together",
        ("network<", "pixels", "seeds", "together<", "faster", "differ"),
        [
            (
                row["model"],
                str(row["pixels"]),
                str(row["seeds"]),
                row["way"],
                f"{row['speedup']:.2f}x",
                f"{row['largest_difference']:.0e}",
            )
            for row in rows
        ],
    )
    record(FLAGS.json, rows, batch_size=FLAGS.batch_size)


if __name__ == "__main__":
    app.run(main)
