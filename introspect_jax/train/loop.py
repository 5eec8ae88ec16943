"""The training loop; its order never changes: log, evaluate, save, fetch, step."""

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable

import jax
import numpy as np
from etils import epath

from introspect_jax.errors import Stopped, UserError
from introspect_jax.processes import Watchdog, lost, wait_for_all
from introspect_jax.train.checkpoint import Checkpoints, Meta
from introspect_jax.train.experiment import Experiment
from introspect_jax.train.progress import Metrics, Reporter
from introspect_jax.train.state import TrainState, deployed_variables, state_sha256


@dataclasses.dataclass
class Result:
    """What training ended with.

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
    """`should_stop` of a run that nobody stops."""
    del step
    return False


def train(
    experiment: Experiment,
    workdir: epath.Path,
    reporter: Reporter,
    should_stop: Callable[[int], bool] = never,
) -> Result:
    """Trains to the end, from the newest intact checkpoint if there is one.

    Args:
      experiment: of `build`.
      workdir: of `open_workdir`.
      reporter: what to tell.
      should_stop: asked before every step, with its number. An evaluation is finished
        first: half of one is lost.

    Raises:
      Stopped: it was asked to, before the end; the state is saved.
      UserError: a loss that is not finite, or nothing but damaged checkpoints.
    """
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(workdir, experiment.config.checkpoints_kept)
        stack.callback(checkpoints.close)  # waits for what is being written
        like = experiment.abstract_state()
        restored = checkpoints.restore_newest(like)
        if restored:
            state, meta = restored
            reporter.say(f"continuing from step {int(state.step)} in {workdir}")
        else:
            state = experiment.init_state()
            meta = {"seconds": 0.0, "validation": None}
            experiment.check_independent(state)
        metrics = Metrics(workdir, int(state.step))
        stack.callback(metrics.close)
        watchdog = stack.enter_context(
            Watchdog(experiment.config.parallel.watchdog_seconds)
        )
        try:
            state, meta = _run_steps(
                experiment,
                state,
                meta,
                checkpoints,
                metrics,
                reporter,
                should_stop,
                watchdog,
            )
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


def _run_steps(
    experiment: Experiment,
    state: TrainState,
    meta: Meta,
    checkpoints: Checkpoints,
    metrics: Metrics,
    reporter: Reporter,
    should_stop: Callable[[int], bool],
    watchdog: Watchdog,
) -> tuple[TrainState, Meta]:
    """The loop itself, from the step of `state` to the last, which is always saved."""
    config = experiment.config
    validation_split = experiment.dataset.validation
    start, before = int(state.step), meta["seconds"]
    batches = experiment.batches(start)
    if start < config.total_steps:
        first = next(batches)  # a teacher may be trained here, on its own account
        batches = itertools.chain([first], batches)
    began = time.monotonic()
    reporter.start(start)
    if start < config.total_steps:
        paused = reporter.pause()
        train_step, flops = experiment.compile(state, first)
        reporter.resume(paused)
    if start == 0:
        metrics.write(0, "cost", step_cost(experiment, state, flops))
    pending: list[tuple[int, dict[str, jax.Array]]] = []

    def log(step: int) -> None:
        if pending:
            means = _fetch(pending, checkpoints)
            speed = reporter.log(step, means)
            seconds = {"step_seconds": config.batch_size / speed}
            metrics.write(step, "train", means | {"images_per_second": speed} | seconds)

    for step in range(start, config.total_steps + 1):
        done = step == config.total_steps
        evaluating = step % config.eval_steps == 0 or done
        stopping = not done and should_stop(step)
        saving = evaluating or stopping or step % config.checkpoint_steps == 0
        if step > start and saving:
            # Nothing that is not finite is ever saved. What was not logged yet is
            # logged now: a run that continues from here knows no earlier steps.
            log(step)
            paused = reporter.pause()
            validation = None
            if evaluating and len(validation_split):
                variables = deployed_variables(experiment.method, state)
                validation = experiment.evaluate(variables, validation_split)
                metrics.write(step, "validation", validation)
                reporter.say(f"step {step} validation {describe(validation)}")
            seconds = before + time.monotonic() - began
            meta = {"seconds": seconds, "validation": validation}
            checkpoints.save(state, meta)
            reporter.resume(paused)
            watchdog.alive()
        if done:
            break
        if stopping:
            checkpoints.wait()
            wait_for_all("stopped")  # a scheduler may kill the others when one ends
            raise Stopped(f"stopped at step {step} of {config.total_steps}")
        state, values = train_step(state, next(batches))
        # Wait for the step before, so that at most two are under way; its metrics stay
        # on the device until they are logged.
        if pending:
            jax.block_until_ready(pending[-1][1]["loss"])
            watchdog.alive()
        pending.append((step + 1, values))
        reporter.advance(step + 1)
        if (step + 1) % config.log_steps == 0:
            log(step + 1)
    return state, meta


def step_cost(
    experiment: Experiment, state: TrainState, flops: float | None
) -> dict[str, float]:
    """What a step and a deployed network take, whatever the device."""

    def count(params) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(params))

    deployed = deployed_variables(experiment.method, state)
    known = {} if flops is None else {"flops_per_step": flops}
    return known | {
        "parameters_trained": count(state.params),
        "parameters_deployed": count(deployed["params"]),
    }


def _fetch(pending: list, checkpoints: Checkpoints) -> dict[str, float]:
    """Means of the waiting metrics, which it forgets.

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
    """Evaluation in a line."""
    return (
        f"top-1 {scores['top1']:.4f} top-5 {scores['top5']:.4f} "
        f"NLL {scores['nll']:.4f} ECE {scores['ece']:.4f}"
    )
