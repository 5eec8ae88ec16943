"""Progress of a study: a bar on a terminal, otherwise a line for each run."""

import collections
import contextlib
import statistics
import time

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as Bar

from introspect_jax.train.progress import duration
from studies.plan import Plan, Run
from studies.records import Records


class Progress(contextlib.AbstractContextManager):
    """A progress bar for the study, with the remaining time."""

    def __init__(self, workers: int):
        self._workers = workers
        self._console = Console(highlight=False, soft_wrap=True)
        self._bar: Bar | None = None
        if self._console.is_terminal:
            self._bar = Bar(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[shown]}"),
                console=self._console,
            )
            self._task = self._bar.add_task("study", total=1.0, shown="starting")
            self._bar.start()
        self._steps: dict[str, int] = {}
        self._seconds: dict[str, float] = {}  # of a step, by program
        self._began: dict[str, tuple[int, float]] = {}
        self._finished: set[str] = set()
        self._total = 0
        self._left: float | None = None

    def step(self, run: Run, step: int) -> None:
        """Records that a run has reached a step."""
        first, since = self._began.setdefault(run.id, (step, time.monotonic()))
        self._steps[run.id] = step
        if step > first:
            taken = (time.monotonic() - since) / (step - first)
            self._seconds[run.program] = taken

    def show(
        self, plan: Plan, records: Records, running: dict[str, Run], failed: int
    ) -> None:
        """Updates the bar."""
        summaries = records.summaries()
        steps: collections.Counter[str] = collections.Counter()
        total = done = 0
        to_do = plan.to_do(summaries, records.is_here)
        left = {run.id for run in to_do}
        finished = [r for r in plan.runs if r.id in summaries and r.id not in left]
        for run in finished + to_do:
            of_run = run.config.total_steps
            total += of_run
            taken = of_run if run.id in summaries else self._steps.get(run.id, 0)
            done += taken
            steps[run.program] += of_run - taken
            if run.id in summaries and run.program not in self._seconds:
                self._seconds[run.program] = summaries[run.id]["seconds"] / of_run
        if plan.runs:
            of_run = plan.runs[-1].config.total_steps
            total += plan.waiting * of_run
            steps["waiting"] += plan.waiting * of_run
        self._left = None
        if self._seconds:
            mean = statistics.mean(self._seconds.values())
            seconds = sum(n * self._seconds.get(p, mean) for p, n in steps.items())
            self._left = seconds / self._workers
        self._finished = {run.id for run in finished}
        self._total = len(finished) + len(to_do) + plan.waiting
        if self._bar:
            shown = f"{self._of()}, {self._time_left()}" + (
                f", {failed} failed" if failed else ""
            )
            now = ", ".join(f"{run.arm} {run.seed}" for run in running.values())
            self._bar.update(
                self._task,
                total=max(total, 1),
                completed=done,
                shown=shown + (f" ({now})" if now else ""),
            )

    def timing(self, done: int, total: int) -> None:
        """Updates the bar while programs are timed."""
        if self._bar:
            self._bar.update(
                self._task, total=max(total, 1), completed=done, shown="timing steps"
            )

    def ended(self, kind: str, run: Run, message: str | None, records: Records) -> None:
        """Prints the outcome of a run that has ended."""
        self._began.pop(run.id, None)
        if kind == "timed":
            return
        name = " ".join(
            part
            for part in (run.setting, run.arm, run.trial, f"seed {run.seed}")
            if part
        )
        if run.phase == "teacher":
            name = f"teacher of {name}"
        if kind == "done":
            summary = records.summaries()[run.id]
            split = "test" if summary["test"] else "validation"
            scores = summary[split] or {}
            result = f"{split} top-1 {100 * scores['last']['top1']:.2f} %"
            self._finished.add(run.id)
            line = f"{self._of()} {name}: {result}, {self._time_left()}"
            self._console.print(line, markup=False)
        elif kind == "stopped":
            self._console.print(f"{name}: saved; it will be continued", markup=False)
        else:
            self._console.print(f"{name} failed: {message}", markup=False)

    def _of(self) -> str:
        return f"{len(self._finished)}/{self._total} runs"

    def _time_left(self) -> str:
        return "time unknown" if self._left is None else f"{duration(self._left)} left"

    def __exit__(self, *exc_info) -> None:
        if self._bar:
            self._bar.stop()
