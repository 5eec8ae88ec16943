"""Does what is missing of a study, and stops in time."""

import contextlib
import dataclasses
import multiprocessing
import signal
import time
from collections.abc import Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from introspect_jax import interrupts
from introspect_jax.errors import UserError
from introspect_jax.machine import usable_cpus
from studies.design import Study
from studies.plan import Plan, Planner, Run
from studies.progress import Progress
from studies.records import Records
from studies.worker import work

# The last share of the time budget is for saving what is under way, and its most.
_CLOSING, _CLOSING_SECONDS = 0.25, 40.0


@dataclasses.dataclass
class _Worker:
    """A process and what it is doing."""

    process: Any
    connection: Connection
    run: Run | None = None


class Runner:
    """Workers that do the runs of a study."""

    def __init__(
        self,
        study: Study,
        records: Records,
        *,
        workers: int = 1,
        time_budget: float | None = None,
        done: Sequence[str] = (),
        fast_cpu: bool = True,
    ):
        """A runner.

        Args:
          study: what to do.
          records: of the folder.
          workers: processes, on CPUs each with its share of the cores.
          time_budget: seconds after which all has stopped; None for no limit.
          done: folders of results whose runs count as done.
          fast_cpu: whether workers switch on the settings for CPUs.

        Raises:
          UserError: an invalid study, numbers out of range, or a folder of `done`
            without results.
        """
        cores = usable_cpus()
        if not 1 <= workers <= len(cores):
            raise UserError(
                f"--workers must lie in 1..{len(cores)}, the processors here; got "
                f"{workers}"
            )
        if time_budget is not None and time_budget <= 0:
            raise UserError(f"--time_budget must be above 0, got {time_budget}")
        self._study, self._records = study, records
        self.planner = Planner(study)
        planned = self.planner.possible() if done else {}
        for folder in done:
            records.count_results(folder, planned)
        self._cores = cores
        self._count, self._fast_cpu = workers, fast_cpu
        self._context = multiprocessing.get_context("spawn")  # JAX has threads
        # Shared with the workers, without a lock: a worker that is killed while it
        # holds one would stop all others for good.
        self._stop = self._context.RawValue("b", 0)
        self._workers: list[_Worker | None] = [None] * workers
        self._failed: dict[str, str] = {}
        self._planned: tuple[int, Plan] | None = None
        now = time.monotonic()
        self._end = self._close = float("inf")
        if time_budget is not None:
            self._end = now + time_budget
            self._close = self._end - min(_CLOSING * time_budget, _CLOSING_SECONDS)

    def run(self) -> dict[str, str]:
        """Does what is missing.

        Returns:
          Id -> message of the runs that failed now.
        """
        # What failed before is tried again, after the rest.
        before = self._records.failures()
        with self._closing(), self._signals(), Progress(self._count) as progress:
            while True:
                plan = self.plan()
                progress.show(plan, self._records, self._running(), len(self._failed))
                stopping = self._stop.value or time.monotonic() > self._close
                if stopping:
                    self._stop.value = 1
                    if time.monotonic() > self._end:
                        break
                else:
                    self._assign(plan, before)
                if not self._running():
                    break
                self._listen(progress)
        self.plan()
        return self._failed

    def estimate(self) -> dict[str, dict[str, float]]:
        """Program -> seconds of a step and of a whole run, from a few timed steps."""
        plan = self.planner.plan(self._records.summaries())
        missing = {run.program: run for run in self._to_do(plan)}
        found: dict[str, dict[str, float]] = {}
        with self._closing(), self._signals(), Progress(self._count) as progress:
            waiting = list(missing.values())
            while waiting or self._running():
                for slot in range(self._count):
                    if waiting and not self._busy(slot):
                        self._send(slot, waiting.pop(), "time")
                progress.timing(len(found), len(missing))
                for kind, run, value in self._listen(None):
                    if kind == "timed":
                        found[run.program] = value
                    elif kind == "failed":
                        raise UserError(f"{run.arm!r} cannot be timed: {value}")
                if self._stop.value:
                    raise KeyboardInterrupt
        return found

    def plan(self) -> Plan:
        """The runs as far as they are known now; `study.json` says the same."""
        summaries = self._records.summaries()
        # The plan grows when choices are made; nothing else changes it.
        if self._planned is None or self._planned[0] != len(summaries):
            plan = self.planner.plan(summaries)
            self._records.write_study(self._study, self.planner, plan)
            self._planned = len(summaries), plan
        return self._planned[1]

    def missing(self) -> int:
        """How many runs are still to be done."""
        plan = self.plan()
        return plan.waiting + len(self._to_do(plan))

    def _to_do(self, plan: Plan) -> list[Run]:
        return plan.to_do(self._records.summaries(), self._records.is_here)

    def _running(self) -> dict[str, Run]:
        return {w.run.id: w.run for w in self._workers if w and w.run}

    def _busy(self, slot: int) -> bool:
        worker = self._workers[slot]
        return worker is not None and worker.run is not None

    def _assign(self, plan: Plan, before: dict[str, str]) -> None:
        """Gives every idle worker the next run that can be begun."""
        running = self._running()
        ready = [
            run
            for run in self._to_do(plan)
            if run.id not in running
            and run.id not in self._failed
            and (run.teacher is None or self._records.is_here(run.teacher))
        ]
        ready.sort(key=lambda run: run.id in before)
        for slot in range(self._count):
            if ready and not self._busy(slot):
                self._send(slot, ready.pop(0), "run")

    def _send(self, slot: int, run: Run, kind: str) -> None:
        worker = self._workers[slot] or self._start(slot)
        self._workers[slot] = worker
        worker.run = run
        job = {
            "kind": kind,
            "id": run.id,
            "name": self.planner.config_name,
            "config": run.config.to_dict(),
            "folder": str(self._records.folder(run.id)),
            "log": str(self._records.log(run.id)),
            "teacher": run.teacher and str(self._records.folder(run.teacher)),
        }
        worker.connection.send(job)

    def _start(self, slot: int) -> _Worker:
        here, there = self._context.Pipe()
        share = None
        if self._count > 1:
            share = [c for i, c in enumerate(self._cores) if i % self._count == slot]
        process = self._context.Process(
            target=work,
            args=(there, self._stop, share, self._fast_cpu),
            daemon=True,
        )
        # Blocked in the new process for good: what a terminal or a scheduler sends to
        # all processes is for the study, which tells its workers to save. (The tracker
        # of multiprocessing unblocks them when it starts.)
        resource_tracker.ensure_running()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()
        return _Worker(process, here)

    def _listen(self, progress: Progress | None) -> list[tuple[str, Run, Any]]:
        """Waits a second at most for what workers say."""
        heard = []
        connections = [w.connection for w in self._workers if w]
        talking = wait(connections, timeout=1.0)
        for slot, worker in enumerate(self._workers):
            if worker is None or worker.connection not in talking:
                continue
            run = worker.run
            try:
                kind, _, value = worker.connection.recv()
            except (EOFError, OSError):
                worker.process.join()
                code = worker.process.exitcode
                self._workers[slot] = None
                if run is None:
                    continue
                kind, value = (
                    "failed",
                    (
                        f"its process ended with code {code}"
                        + (" (out of memory?)" if code == -signal.SIGKILL else "")
                    ),
                )
            if kind == "refused":
                raise UserError(value)
            assert run is not None
            heard.append((kind, run, value))
            if kind == "step":
                if progress:
                    progress.step(run, value)
                continue
            if self._workers[slot] is not None:
                worker.run = None
            if kind == "done":
                self._records.clear_failure(run.id)
            if kind == "failed" and progress:
                self._failed[run.id] = value
                self._records.write_failure(run, value)
            if progress:
                progress.ended(kind, run, value, self._records)
        return heard

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        """The first Ctrl-C or SIGTERM saves and stops; a second one does not wait."""

        def stop(number: int, frame: Any) -> None:
            if number == signal.SIGINT and not interrupts.is_new():
                return  # the same one
            self._stop.value = 1
            for name in kept:
                signal.signal(name, kept[name])

        kept = {name: signal.getsignal(name) for name in _SIGNALS}
        for name in _SIGNALS:
            signal.signal(name, stop)
        try:
            yield
        finally:
            for name, handler in kept.items():
                signal.signal(name, handler)

    @contextlib.contextmanager
    def _closing(self) -> Iterator[None]:
        """The folder is this process's alone, and no worker outlives it."""
        with self._records.lock():
            try:
                yield
            finally:
                for worker in self._workers:
                    if worker is None:
                        continue
                    worker.connection.close()
                    if worker.run:
                        worker.process.kill()
                    worker.process.join()
                self._workers = [None] * self._count


_SIGNALS = (signal.SIGINT, signal.SIGTERM)
