"""Sides of a benchmark in processes of their own, timed in turns.

Settings of `malloc` and of the compiler belong to a process, and threads of one library
that wait for work take time from the other library.
"""

import contextlib
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from timing import seconds, take_turns

# What glibc has to be told to keep freed memory, as `introspect_jax.cpu` tells it.
KEPT_MEMORY = {
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1:glibc.malloc.mmap_max=0:"
    "glibc.malloc.trim_threshold=2147479552:glibc.malloc.top_pad=67108864"
}
# Names of sides, see `open_sides`.
HERE, OFF, THERE, KEPT = "here", "here, off", "there", "there, memory kept"
# A turn is steps that take about this many seconds together, so that waiting for the
# device at its end weighs little; turns of one kind end after a while.
TURN_SECONDS, MOST_STEPS, MOST_SECONDS = 0.2, 100, 20.0


class Failed(Exception):
    """A function could not be made in a side's process; the message says why."""


class Side:
    """A process that makes functions and calls them when told to."""

    def __init__(
        self,
        make: Callable[..., tuple[Callable[[], Any], Callable[[], Any]]],
        *given: Any,
        environment: dict[str, str] | None = None,
        cores: list[int] | None = None,
    ):
        """Starts the process.

        Args:
          make: Importable function `(*given, name) -> (step, wait)`: one that may leave
            work under way, and one that waits for it.
          *given: Its arguments, which can be pickled.
          environment: Variables of the process beside those of this one.
          cores: Those to keep to.
        """
        context = multiprocessing.get_context("spawn")
        self._connection, there = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(there, make, given, cores), daemon=True
        )
        with _environment(environment or {}):
            self._process.start()
        there.close()

    def make(self, name: Any, steps: int | None = None) -> dict[str, Any]:
        """Makes a function and warms it up.

        Args:
          name: What it is called.
          steps: Of a turn; None finds them by calling it. A function whose turns are
            given is not called here: it warms up what it uses when it is made.

        Returns:
          `seconds`, of its first call, which compiles it (None without one), and
          `steps` of a turn.

        Raises:
          Failed: It could not be made.
        """
        return self._ask("make", name, steps)

    def turn(self, name: Any) -> float:
        """Seconds of a step, over a turn."""
        return self._ask("turn", name)

    def faults(self, name: Any) -> float:
        """Page faults of a step, over a turn."""
        return self._ask("faults", name)

    def value(self, name: Any) -> Any:
        """What `wait` returns after a step. It can be pickled."""
        return self._ask("value", name)

    def peak_bytes(self) -> int:
        """Most memory that the process had, resident; 0 where that is not known."""
        return self._ask("peak", None)

    def close(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join()

    def _ask(self, *message: Any) -> Any:
        self._connection.send(message)
        answer, value = self._connection.recv()
        if answer == "failed":
            raise Failed(value)
        return value


def open_sides(
    stack: contextlib.ExitStack,
    make_ours: Callable,
    make_theirs: Callable,
    given: Any,
    cores: list[int] | None = None,
) -> dict[str, Side]:
    """The sides of a comparison, closed with the stack.

    On CPUs `HERE` and `OFF`, this package with the settings of `launch/` and without,
    `THERE` and `KEPT`, the other library as it is and with freed memory kept; on
    accelerators the first of each.

    Args:
      stack: What closes them.
      make_ours: `(given, whether with the settings, name)`, see `Side`.
      make_theirs: `(given, name)`.
      given: Can be pickled.
      cores: Those to keep to.
    """
    sides = {
        HERE: Side(make_ours, given, True, cores=cores),
        THERE: Side(make_theirs, given, cores=cores),
    }
    if jax.default_backend() == "cpu":
        sides[OFF] = Side(make_ours, given, False, cores=cores)
        sides[KEPT] = Side(make_theirs, given, environment=KEPT_MEMORY, cores=cores)
    for side in sides.values():
        stack.callback(side.close)
    return sides


def waited(step: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Seconds of a step and of waiting for it."""
    return seconds(lambda: (step(), wait()))


def medians(
    functions: dict[Any, tuple[Side, Any]], repeats: int
) -> tuple[dict[Any, float], dict[Any, list[float]]]:
    """Median seconds of a step of each function, and those of each turn.

    Args:
      functions: Any name -> side and what the function is called there, once made.
      repeats: Turns of each.
    """
    taken: dict[Any, list[float]] = {name: [] for name in functions}

    def one(name: Any) -> Callable[[], None]:
        side, there = functions[name]
        return lambda: taken[name].append(side.turn(there))

    calls = {name: one(name) for name in functions}
    take_turns(calls, repeats, most_seconds=MOST_SECONDS * len(functions))
    return {n: statistics.median(values) for n, values in taken.items()}, taken


def _serve(connection: Any, make: Callable, given: tuple, cores: Any) -> None:
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    made: dict[Any, Any] = {}
    while True:
        try:
            order, name, *more = connection.recv()
        except EOFError:
            return
        if order == "make":
            (steps,) = more
            try:
                step, wait = make(*given, name)
                first = waited(step, wait) if steps is None else None
            except Exception as error:  # torch.compile fails in many ways
                line = (str(error).splitlines() or [""])[0]
                connection.send(("failed", f"{type(error).__name__}: {line}"))
                continue
            made[name] = (*_turn(step, wait, steps), wait)
            connection.send(("made", {"seconds": first, "steps": made[name][0]}))
            continue
        if order == "peak":
            connection.send((order, _peak_bytes()))
            continue
        steps, turn, wait = made[name]
        if order == "value":
            connection.send((order, wait()))
            continue
        before, began = _faults(), time.perf_counter()
        turn()
        taken = {
            "turn": time.perf_counter() - began,
            "faults": float(_faults() - before),
        }
        connection.send((order, taken[order] / steps))


def _turn(
    step: Callable, wait: Callable, steps: int | None
) -> tuple[int, Callable[[], None]]:
    """Steps of a turn, by default found by warming up, and what takes so many."""
    if steps is None:
        step()
        wait()
        one = waited(step, wait)
        steps = int(min(max(TURN_SECONDS / one, 1), MOST_STEPS))
    count = steps

    def run() -> None:
        for _ in range(count):
            step()
        wait()

    return count, run


def _peak_bytes() -> int:
    # Not `getrusage`, whose peak a process inherits from the one that started it.
    with contextlib.suppress(OSError), open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    return 0


def _faults() -> int:
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


@contextlib.contextmanager
def _environment(more: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
