"""Progress of a run: a bar or lines, `metrics.jsonl`, TensorBoard."""

import contextlib
import json
import math
import os
import statistics
import tempfile
import time

from absl import logging
from etils import epath
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

from introspect_jax import processes
from introspect_jax.train.files import read_lines, write_text, writing


class Metrics:
    """Records of a run, appended to `metrics.jsonl` and TensorBoard.

    A run that continues from step s drops the records after s, which it writes again.
    Of several processes the first writes.

    Raises:
      UserError: what it writes cannot be written; so do its methods.
    """

    def __init__(self, workdir: epath.Path, start: int):
        self._silent = not processes.is_first()
        if self._silent:
            return
        self._path = workdir / "metrics.jsonl"
        before = read_lines(self._path) if start else []
        self._records = [r for r in before if r["step"] <= start]
        if start and not {0, start} <= {r["step"] for r in self._records}:
            logging.warning(
                "%s: records of the steps up to %d are missing", self._path, start
            )
        self._rewrite()
        # Object stores cannot append: records and events are kept here and sent whole.
        self._remote = workdir / "tensorboard" if "://" in str(workdir) else None
        self._local = tempfile.mkdtemp() if self._remote else workdir / "tensorboard"
        self._board = _Board(os.fspath(self._local), start)

    def _rewrite(self) -> None:
        lines = [json.dumps(record) + "\n" for record in self._records]
        write_text(self._path, "".join(lines))

    def write(self, step: int, split: str, values: dict[str, float]) -> None:
        """Adds a record."""
        if self._silent:
            return
        record = {"step": step, "split": split, **values}
        self._records.append(record)
        if self._remote:
            self._rewrite()
        else:
            with writing(self._path), open(self._path, "a") as file:
                file.write(json.dumps(record) + "\n")
        self._board.write(step, {f"{split}/{n}": value for n, value in values.items()})

    def close(self) -> None:
        """Finishes the files."""
        if self._silent:
            return
        self._board.close()
        if self._remote:
            self._remote.mkdir(parents=True, exist_ok=True)
            for file in epath.Path(self._local).iterdir():
                (self._remote / file.name).write_bytes(file.read_bytes())


class _Board:
    """Scalars for TensorBoard.

    Written at once: the thread of tensorboardX's SummaryWriter dies of a full disk, and
    then the run would wait for it without end.
    """

    FLUSH_SECONDS = 30

    def __init__(self, folder: str, start: int):
        from tensorboardX import summary
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self._folder = epath.Path(folder)
        self._scalar, self._event = summary.scalar, Event
        with writing(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            # Two sessions may begin in one second.
            self._file = EventsWriter(os.path.join(folder, "events"), f".{start}")
            if start:  # TensorBoard drops what sessions before wrote from there on
                began = SessionLog(status=SessionLog.START)
                self._file.write_event(Event(step=start + 1, session_log=began))
            self._flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        with writing(self._folder):
            for name, value in values.items():
                self._file.write_event(
                    self._event(
                        wall_time=time.time(),
                        step=step,
                        summary=self._scalar(name, value),
                    )
                )
            if time.monotonic() - self._flushed > self.FLUSH_SECONDS:
                self._flush()

    def _flush(self) -> None:
        self._file.flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        with writing(self._folder):
            self._file.close()


def read_cost(workdir: epath.Path) -> dict[str, float]:
    """Reads the cost of a run from its records.

    Returns:
      `parameters_trained` and `parameters_deployed`, `step_seconds` (the median over
      its logs, without compilation) and `flops_per_step` (all devices together), as
      far as they are known.
    """
    records = read_lines(workdir / "metrics.jsonl")
    cost = {
        name: value
        for record in records
        if record.get("split") == "cost"
        for name, value in record.items()
        if name not in ("step", "split")
    }
    seconds = [r["step_seconds"] for r in records if "step_seconds" in r]
    return cost | ({"step_seconds": statistics.median(seconds)} if seconds else {})


class Reporter(contextlib.AbstractContextManager):
    """Shows a progress bar on a terminal and plain lines elsewhere, in the first
    process."""

    def __init__(self, total_steps: int, steps_per_epoch: int, batch_size: int):
        quiet = not processes.is_first()
        self.console = Console(highlight=False, soft_wrap=True, quiet=quiet)
        self._total, self._per_epoch = total_steps, steps_per_epoch
        self._batch_size = batch_size
        self._bar: Progress | None = None
        if self.console.is_terminal and not quiet:
            self._bar = Progress(
                TextColumn("epoch {task.fields[epoch]}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[shown]}"),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self.console,
            )
        self._clock = (0, time.monotonic())

    def start(self, step: int) -> None:
        """The first step is about to be taken (and compiled)."""
        self._clock = (step, time.monotonic())
        if self._bar:
            self._bar.start()
            self._task = self._bar.add_task(
                "train", total=self._total, completed=step, epoch="-", shown="compiling"
            )

    def pause(self) -> float:
        """Call before work that is not training; returns what `resume` needs."""
        return time.monotonic()

    def resume(self, paused_at: float) -> None:
        """Takes the pause out of the speed."""
        step, since = self._clock
        self._clock = (step, since + time.monotonic() - paused_at)

    def advance(self, step: int) -> None:
        """A step has been taken; nothing is fetched for this."""
        if self._bar:
            self._bar.update(self._task, completed=step)

    def log(self, step: int, values: dict[str, float]) -> float:
        """Shows the means up to `step`; returns images per second."""
        before, since = self._clock
        now = time.monotonic()
        speed = (step - before) * self._batch_size / max(now - since, 1e-9)
        self._clock = (step, now)
        epochs = math.ceil(self._total / self._per_epoch)
        epoch = f"{min(math.ceil(step / self._per_epoch), epochs)}/{epochs}"
        shown = (
            f"loss {values['loss']:.4f} accuracy {values['accuracy']:.4f} "
            f"{speed:,.0f} images/s"
        )
        if self._bar:
            self._bar.update(self._task, epoch=epoch, shown=shown)
        else:
            left = (self._total - step) * self._batch_size / speed
            self.console.print(
                f"step {step}/{self._total} epoch {epoch} {shown} {duration(left)} left"
            )
        return speed

    def say(self, line: str) -> None:
        """A line of its own."""
        self.console.print(line, markup=False)

    def __exit__(self, *exc_info) -> None:
        if self._bar:
            self._bar.stop()


def duration(seconds: float) -> str:
    """Formats seconds as hours, minutes and seconds."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
