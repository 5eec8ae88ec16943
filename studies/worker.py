"""A process that does the runs of a study, one after the other."""

import contextlib
import os
import threading
import time
import traceback
from collections.abc import Iterator
from multiprocessing import parent_process
from multiprocessing.connection import Connection
from typing import Any

import jax
from ml_collections import ConfigDict

from introspect_jax import cpu, data, machine
from introspect_jax import run as whole_run
from introspect_jax.config import lock
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import Stopped, UserError
from introspect_jax.machine import enable_compilation_cache
from introspect_jax.train.progress import Reporter
from studies.timing import time_config

# Messages to the study: (kind, id of the run, what there is to say).
Message = tuple[str, str, Any]


def work(
    connection: Connection, stop: Any, cpus: list[int] | None, fast_cpu: bool
) -> None:
    """Takes jobs from the connection until it is closed.

    A job is `{"kind": "run" or "time", "id", "name", "config", "folder", "log"}`.
    Answers are `("step", id, step)` while it runs, then `("done", id, None)`,
    `("timed", id, figures)`, `("stopped", id, None)` or `("failed", id, line)`; or, at
    once, `("refused", "", line)` if there can be no such worker.

    Args:
      connection: to the study.
      stop: its `value` becomes 1 when the current run is to be saved and left.
      cpus: those to keep to, where several workers share a machine.
      fast_cpu: whether to switch on the settings for CPUs.
    """
    _end_with_parent()
    # Before JAX is asked for a device, which makes its threads.
    if cpus is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus)
    if fast_cpu:
        cpu.switch_on()
    if cpus is not None and jax.default_backend() != "cpu" and not _memory_is_shared():
        text = (
            "several workers on an accelerator need a part of its memory each, and the "
            "first takes most of it: set XLA_PYTHON_CLIENT_PREALLOCATE=false in the "
            "environment (GPUs only), or use --workers=1"
        )
        connection.send(("refused", "", text))
        return
    machine.shares_accelerator = cpus is not None and jax.default_backend() != "cpu"
    enable_compilation_cache()
    datasets: dict[str, Dataset] = {}
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        with _output_to(job["log"]):
            connection.send(_do(job, connection, stop, datasets))


def _memory_is_shared() -> bool:
    """Whether this process takes memory of a GPU as it needs it."""
    taken_first = os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "true")
    return jax.default_backend() == "gpu" and taken_first.lower() in ("false", "0")


def _do(
    job: dict[str, Any],
    connection: Connection,
    stop: Any,
    datasets: dict[str, Dataset],
) -> Message:
    try:
        config = lock(ConfigDict(job["config"]))
        key = config.data.to_json()
        if key not in datasets:
            datasets[key] = data.load(config.data)
        if job["kind"] == "time":
            return "timed", job["id"], time_config(config, datasets[key])
        whole_run.run(
            job["name"],
            config,
            job["folder"],
            dataset=datasets[key],
            teacher_folder=job["teacher"],
            make_reporter=lambda *given: _Telling(connection, job["id"], *given),
            should_stop=lambda step: bool(stop.value),
            pictures=False,
        )
        return "done", job["id"], None
    except Stopped:
        return "stopped", job["id"], None
    except UserError as error:
        return "failed", job["id"], str(error)
    except Exception as error:  # one run must not end the study
        traceback.print_exc()
        line = (str(error).splitlines() or [""])[0]
        return "failed", job["id"], f"{type(error).__name__}: {line}"


class _Telling(Reporter):
    """Lines go to the log of the run; the study is told of every step, now and then."""

    def __init__(self, connection: Connection, id: str, *given: int):
        super().__init__(*given)
        self._connection, self._id = connection, id
        self._told = 0.0

    def advance(self, step: int) -> None:
        super().advance(step)
        now = time.monotonic()
        if now - self._told > 0.5:
            self._told = now
            self._connection.send(("step", self._id, step))


def _end_with_parent() -> None:
    """A study that is killed takes its workers with it, at once: the command that
    continues it must not meet them in the folders."""
    parent = parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def _output_to(path: str) -> Iterator[None]:
    """Whatever is printed, by whatever library, is appended to the file."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "a", buffering=1) as file:
        kept = [os.dup(number) for number in (1, 2)]
        for number in (1, 2):
            os.dup2(file.fileno(), number)
        try:
            yield
        finally:
            for number, old in zip((1, 2), kept, strict=True):
                os.dup2(old, number)
                os.close(old)
