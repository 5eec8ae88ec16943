"""Start, agreement and end of the processes of a run, on one host or several."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from introspect_jax.errors import UserError

# Exit code of a run that was stopped, or has lost another process: the same command
# continues (EX_TEMPFAIL of sysexits.h).
STOPPED = 75
_HEARTBEAT_SECONDS = 30
# In which the others find out by themselves.
_GRACE_SECONDS = 5


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Joins the processes of a run; does nothing if there is only one.

    Without arguments TPU pods and SLURM jobs of several tasks are found by
    `jax.distributed.initialize`. Call it before anything else asks for a device.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: of all.
      process_id: of this one, from 0.

    Raises:
      UserError: some of them are given and others not, or the others do not answer.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given):
        if any(value is None for value in given):
            raise UserError(
                "--coordinator, --num_processes and --process_id go together, got "
                f"{coordinator}, {num_processes} and {process_id}"
            )
        assert num_processes is not None
        assert process_id is not None
        if not 0 <= process_id < num_processes:
            raise UserError(
                f"--process_id must lie in [0, {num_processes}), got {process_id}"
            )
    elif not _is_one_of_many():
        return
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
    except Exception as error:  # of gRPC, of the cluster's detection
        line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"the processes of the run cannot be joined ({type(error).__name__}: "
            f"{line}); all of them must be started, with one --coordinator"
        ) from error


def _is_one_of_many() -> bool:
    """Whether the scheduler of a cluster started this process together with others."""
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS") or os.environ.get("SLURM_NTASKS")
    if "SLURM_PROCID" in os.environ and tasks and int(tasks) > 1:
        return True
    return "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")


def is_first() -> bool:
    """Whether this is the process that writes shared files."""
    return jax.process_index() == 0


def wait_for_all(name: str) -> None:
    """Returns when every process has called it."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def all_agree(good: bool) -> bool:
    """Whether `good` holds in every process."""
    if jax.process_count() == 1:
        return good
    return bool(np.all(multihost_utils.process_allgather(np.asarray(good))))


def same_everywhere(sha256: str) -> bool:
    """Whether all processes have the same digest."""
    if jax.process_count() == 1:
        return True
    mine = np.frombuffer(bytes.fromhex(sha256), np.uint8)
    everyone = multihost_utils.process_allgather(mine)
    return bool(np.all(everyone == everyone[0]))


@contextlib.contextmanager
def until_sigterm() -> Iterator[Callable[[int], bool]]:
    """`should_stop` of `train`: whether a SIGTERM has come, in any process.

    A machine that is about to be taken away says so by this signal. Of one process the
    second signal ends it at once; of many, JAX tells the others and finds the step that
    all of them can reach.
    """
    if jax.process_count() > 1:
        yield multihost_utils.reached_preemption_sync_point
        return
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # signals are the main thread's
        return
    received = False

    def remember(number, frame):
        del frame
        nonlocal received
        received = True
        signal.signal(number, before)

    before = signal.signal(signal.SIGTERM, remember)
    try:
        yield lambda step: received
    finally:
        signal.signal(signal.SIGTERM, before)


class Watchdog(contextlib.AbstractContextManager):
    """Ends this process if another one of the run no longer responds.

    A collective operation has no time limit of its own; the heartbeats of JAX find a
    process that has died, not one that hangs.
    """

    def __init__(self, seconds: float):
        """Starts watching, if there are several processes; `seconds` is the longest
        time without progress."""
        self._seconds = seconds
        self._alive: float | None = None  # before the first step: compilation
        self._done = threading.Event()
        if jax.process_count() > 1:
            # `lost`, from a thread, ends the process: there are several.
            threading.Thread(target=self._watch, daemon=True).start()

    def alive(self) -> None:
        """Reports progress."""
        self._alive = time.monotonic()

    def _watch(self) -> None:
        while not self._done.wait(min(1.0, self._seconds / 4)):
            idle = time.monotonic() - (self._alive or time.monotonic())
            if idle > self._seconds:
                lost(
                    f"no step was finished for {idle:.0f} s "
                    f"(parallel.watchdog_seconds is {self._seconds:g}): another "
                    "process may be gone"
                )

    def __exit__(self, *exc_info) -> None:
        self._done.set()


def lost(reason: str) -> NoReturn:
    """Ends this process after its devices have stopped responding."""
    if is_first():
        # The coordinator lives here: when it goes, JAX aborts those that are left.
        time.sleep(_GRACE_SECONDS)
    leave(STOPPED, f"error: {reason}; the same command continues")


def leave(code: int, message: str) -> NoReturn:
    """Prints a line and ends this process with an exit code.

    One of several ends at once, and the others find out: the usual way out waits for
    all of them, some of which may wait for this one.
    """
    print(message, file=sys.stderr, flush=True)
    if jax.distributed.is_initialized():
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
