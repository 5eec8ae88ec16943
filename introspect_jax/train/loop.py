"""The training loop; its order never changes: log, evaluate, save, fetch, step."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from etils import epath

from introspect_jax.data.sources import Source
from introspect_jax.errors import Stopped, UserError
from introspect_jax.processes import Watchdog, lost, wait_for_all
from introspect_jax.train.checkpoint import Checkpoints, Meta
from introspect_jax.train.progress import Metrics, Reporter
from introspect_jax.train.state import TrainState, deployed_variables, state_sha256
from introspect_jax.train.trainer import Trainer


@dataclasses.dataclass
class Result:
    """Result of training.

    Attributes:
      last: the state after the last step.
      best: the state that was best on validation; `last` without a validation split.
      best_step: its step.
      validation: `{"last": ..., "best": ...}`, or None.
      seconds: spent on the run, over all its continuations.
      state_sha256: of `last`.
    """

    last: TrainState
    best: TrainState
    best_step: int
    validation: dict | None
    seconds: float
    state_sha256: str


def never(step: int) -> bool:
    """A `should_stop` that never stops."""
    del step
    return False


def train(
    trainer: Trainer,
    constants: Any,
    validation: Source,
    workdir: epath.Path,
    reporter: Reporter,
    should_stop: Callable[[int], bool] = never,
) -> Result:
    """Trains to the end, from the newest intact checkpoint if there is one.

    Args:
      trainer: Of `build`.
      constants: Of `Method.constants`, for every batch.
      validation: Split that is evaluated on the way; may be empty.
      workdir: Of `open_workdir`.
      reporter: What to tell.
      should_stop: Asked before every step, with its number. An evaluation is finished
        first: half of one is lost.

    Raises:
      Stopped: It was asked to, before the end; the state is saved.
      UserError: A loss that is not finite, or nothing but damaged checkpoints.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir, trainer.config.checkpoints_kept)
        stack.callback(checkpoints.close)  # waits for what is being written
        like = trainer.abstract_state()
        restored = checkpoints.restore_newest(like)
        if restored:
            state, meta = restored
            reporter.say(f"continuing from step {int(state.step)} in {workdir}")
        else:
            state, meta = trainer.init_state(), {"seconds": 0.0, "validation": None}
            trainer.check_independent(state)
        metrics = Metrics(workdir, int(state.step))
        stack.callback(metrics.close)
        watchdog = stack.enter_context(
            Watchdog(trainer.config.parallel.watchdog_seconds)
        )
        session = _Session(
            trainer, validation, checkpoints, metrics, reporter, should_stop, watchdog
        )
        try:
            state, meta = session.run(state, meta, constants)
        except jax.errors.JaxRuntimeError as error:
            if jax.process_count() == 1:
                raise
            # Closing the checkpoints would wait for the one that is gone.
            line = str(error).splitlines()[0]
            lost(f"another process of this run is gone, or a device failed ({line})")
        checkpoints.wait()
        last = best = (state, meta)
        if meta["validation"]:
            best = checkpoints.restore_best(like) or last
    return Result(
        last=state,
        best=best[0],
        best_step=int(best[0].step),
        validation=meta["validation"]
        and {"last": meta["validation"], "best": best[1]["validation"]},
        seconds=meta["seconds"],
        state_sha256=state_sha256(state),
    )


class _Session:
    """Trains from the state that a run starts or continues with to its last step."""

    def __init__(
        self,
        trainer: Trainer,
        validation: Source,
        checkpoints: Checkpoints,
        metrics: Metrics,
        reporter: Reporter,
        should_stop: Callable[[int], bool],
        watchdog: Watchdog,
    ):
        self._trainer, self._config = trainer, trainer.config
        self._validation, self._checkpoints = validation, checkpoints
        self._metrics, self._reporter = metrics, reporter
        self._should_stop, self._watchdog = should_stop, watchdog
        # Metrics of the steps since the last log, on the devices.
        self._pending: list[tuple[int, dict[str, jax.Array]]] = []

    def run(self, state: TrainState, meta: Meta, constants: Any) -> tuple:
        """Returns the last state, which is always saved, and its meta."""
        config = self._config
        start, before = int(state.step), meta["seconds"]
        began = time.monotonic()
        self._reporter.start(start)
        if start < config.total_steps:
            batches = self._trainer.batches(constants, start)
            batch = next(batches)
            train_step = self._compile(state, batch, start)
        for step in range(start, config.total_steps + 1):
            done = step == config.total_steps
            evaluating = step % config.eval_steps == 0 or done
            stopping = not done and self._should_stop(step)
            saving = evaluating or stopping or step % config.checkpoint_steps == 0
            if step > start and saving:
                # Nothing that is not finite is ever saved. What was not logged yet is
                # logged now: a run that continues from here knows no earlier steps.
                self._log(step)
                paused = self._reporter.pause()
                validation = self._evaluate(state, step) if evaluating else None
                seconds = before + time.monotonic() - began
                meta = {"seconds": seconds, "validation": validation}
                self._checkpoints.save(state, meta)
                self._reporter.resume(paused)
                self._watchdog.alive()
            if done:
                break
            if stopping:
                self._checkpoints.wait()
                wait_for_all("stopped")  # a scheduler may kill the others when one ends
                raise Stopped(f"stopped at step {step} of {config.total_steps}")
            if step > start:
                batch = next(batches)
            state, values = train_step(state, batch)
            self._taken(step + 1, values)
        return state, meta

    def _compile(self, state: TrainState, batch: Any, start: int) -> Any:
        paused = self._reporter.pause()
        train_step, flops = self._trainer.compile(state, batch)
        self._reporter.resume(paused)
        if start == 0:
            cost = step_cost(self._trainer, state, flops)
            self._metrics.write(0, "cost", cost)
        return train_step

    def _taken(self, step: int, values: dict[str, jax.Array]) -> None:
        """Waits for the step before, so that at most two are under way; its metrics
        stay on the device until they are logged."""
        if self._pending:
            jax.block_until_ready(self._pending[-1][1]["loss"])
            self._watchdog.alive()
        self._pending.append((step, values))
        self._reporter.advance(step)
        if step % self._config.log_steps == 0:
            self._log(step)

    def _log(self, step: int) -> None:
        if self._pending:
            means = _fetch(self._pending, self._checkpoints)
            speed = self._reporter.log(step, means)
            values = {
                "images_per_second": speed,
                "step_seconds": self._config.batch_size / speed,
            }
            self._metrics.write(step, "train", means | values)

    def _evaluate(self, state: TrainState, step: int) -> dict[str, float] | None:
        if not len(self._validation):
            return None
        variables = deployed_variables(self._trainer.method, state)
        scores = self._trainer.evaluator(variables, self._validation)
        self._metrics.write(step, "validation", scores)
        self._reporter.say(f"step {step} validation {describe(scores)}")
        return scores


def step_cost(
    trainer: Trainer, state: TrainState, flops: float | None
) -> dict[str, float]:
    """Returns the FLOPs of a step and the numbers of parameters."""

    def count(params) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    deployed = deployed_variables(trainer.method, state)
    known = {} if flops is None else {"flops_per_step": flops}
    return known | {
        "parameters_trained": count(state.params),
        "parameters_deployed": count(deployed["params"]),
    }


def _fetch(pending: list, checkpoints: Checkpoints) -> dict[str, float]:
    """Returns the means of the pending metrics and clears them.

    Raises:
      UserError: one is not finite; names the step.
    """
    fetched = jax.device_get(pending)
    pending.clear()
    for step, values in fetched:
        for name in ("loss", "gradient_norm", "state_norm"):
            if not math.isfinite(values[name]):
                checkpoints.wait()
                good = checkpoints.newest_step()
                kept = (
                    "there is no checkpoint yet"
                    if good is None
                    else (f"the last good checkpoint, of step {good}, is kept")
                )
                raise UserError(
                    f"the {name.replace('_', ' ')} at step {step} is {values[name]}; "
                    f"{kept}. Try a lower optimizer.learning_rate, "
                    "optimizer.warmup or optimizer.clip_norm"
                )
    if not fetched:
        return {}
    return {
        name: float(np.mean([values[name] for _, values in fetched], dtype=np.float64))
        for name in fetched[0][1]
    }


def describe(scores: dict[str, float]) -> str:
    """Formats the scores of an evaluation in a line."""
    return (
        f"top-1 {scores['top1']:.4f} top-5 {scores['top5']:.4f} "
        f"NLL {scores['nll']:.4f} ECE {scores['ece']:.4f}"
    )
