"""Share of the training time that is spent waiting for data.

    TFDS_DATA_DIR=DIR python benchmarks/input_wait.py --json=FILE

ResNet-8 on CIFAR-10 at 16x16 pixels with standard training, which has the shortest
steps. The training split is on the device, or is streamed (read, decoded, resized)
while training. As in `train`, the next batch is requested while a step runs, and at
most two steps run at a time. The time in `next(batches)` counts as waiting if the
previous step has ended when the batch arrives: the device was idle for at most that
time. The total time in `next(batches)` is another column; on CPU it is long because the
running step uses the processors. The two loops take turns. The ratio of their steps is
reported too, since readers compete with the network for processors.

The steps run under `jax.transfer_guard_device_to_host("disallow")`, which raises an
error if a value is fetched. (On CPU the guard has no effect; there
`tests/train/test_loop_is_quiet` tests the loop.) Programs compiled while steps are
timed are counted: there must be none.
"""

import os
import pathlib
import statistics
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags, logging
from timing import median_ratio, record, show

from configs import cifar10
from introspect_jax import cli, cpu, data
from introspect_jax.errors import UserError
from introspect_jax.train.trainer import build

FLAGS = flags.FLAGS
flags.DEFINE_integer("steps", 60, "Timed steps of a turn.")
flags.DEFINE_integer("warm_up", 10, "Steps before them.")
flags.DEFINE_integer("repeats", 5, "Turns.")
flags.DEFINE_string("method", "standard", "Of training.")
cli.define_cpu_flag()
flags.DEFINE_string("json", None, "Where to write the rows.")

GOALS = {"on the device": 0.02, "streamed": 0.05}
COMPILED = "/jax/core/compile/backend_compile_duration"


class Loop:
    """Training that goes on from turn to turn."""

    def __init__(self, streamed: bool):
        config = cifar10.get_config("quick")
        config.method.name = FLAGS.method
        if streamed:
            config.data.device_megabytes = 0
        # In the streamed loop images stay where they are until they are read.
        trainer = build(config, data.load(config.data))
        assert trainer.loader.streams == streamed
        self.state = trainer.init_state()
        self.batches = trainer.batches(trainer.constants(None))
        self.step, _ = trainer.compile(self.state, next(self.batches))
        self.take(FLAGS.warm_up)

    def take(self, steps: int) -> tuple[float, float, float]:
        """Seconds of so many steps; of `next(batches)`; of it with an idle device."""
        jax.block_until_ready(self.state)
        began, asking, waiting, before = time.perf_counter(), 0.0, 0.0, None
        for _ in range(steps):
            asked = time.perf_counter()
            batch = next(self.batches)
            spent = time.perf_counter() - asked
            asking += spent
            if before is None or before.is_ready():
                waiting += spent
            self.state, metrics = self.step(self.state, batch)
            if before is not None:
                jax.block_until_ready(before)
            before = metrics["loss"]
        jax.block_until_ready(self.state)
        return time.perf_counter() - began, asking, waiting


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.fast_cpu:
        cpu.switch_on()
    loops = {"on the device": Loop(False), "streamed": Loop(True)}
    compiled: list[float] = []

    def listen(event: str, seconds: float, **_) -> None:
        if event == COMPILED:
            compiled.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    taken: dict[str, list[tuple[float, float, float]]] = {n: [] for n in loops}
    with jax.transfer_guard_device_to_host("disallow"):
        for turn in range(FLAGS.repeats):
            for name in list(loops)[:: 1 if turn % 2 == 0 else -1]:
                taken[name].append(loops[name].take(FLAGS.steps))
    if compiled:
        raise SystemExit(f"{len(compiled)} programs were compiled after the warm-up")
    whole = {name: [turn[0] for turn in turns] for name, turns in taken.items()}
    rows = [
        {
            "data": name,
            "waiting": statistics.median(idle / all_ for all_, _, idle in turns),
            "in_next_batches": statistics.median(ask / all_ for all_, ask, _ in turns),
            "goal": GOALS[name],
            "step_ratio": median_ratio(whole[name], whole["on the device"]),
            "step_seconds": statistics.median(whole[name]) / FLAGS.steps,
            "compiled_after_warm_up": len(compiled),
        }
        for name, turns in taken.items()
    ]
    show(
        f"ResNet-8 at 16x16, {FLAGS.method}, {FLAGS.repeats} x {FLAGS.steps} steps",
        ("data<", "waiting", "goal<", "in next(batches)", "a step", "compiled again"),
        [
            (
                row["data"],
                f"{100 * row['waiting']:.2f} %",
                f"below {100 * row['goal']:g} %: "
                + ("met" if row["waiting"] < row["goal"] else "MISSED"),
                f"{100 * row['in_next_batches']:.2f} %",
                f"{row['step_ratio']:.2f}x",
                str(row["compiled_after_warm_up"]),
            )
            for row in rows
        ],
    )
    record(
        FLAGS.json,
        rows,
        method=FLAGS.method,
        steps=FLAGS.steps,
        repeats=FLAGS.repeats,
        data_dir_set=bool(os.environ.get("TFDS_DATA_DIR")),
    )


if __name__ == "__main__":
    try:
        app.run(main)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
