"""Fills the disk while checkpoints and files are written.

The disk is a small tmpfs in a mount namespace of its own (Linux, `unshare`), filled up
to so many bytes by a file beside the work folder. What cannot be written must end in an
error of one line, what was saved must stay, and with room again the run must end as one
that always had room. python tests/reliability/disk_full.py [--quick] [--json=FILE]
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator

import damage
import workfolders
from etils import epath
from workfolders import ROOT

from introspect_jax.errors import UserError
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.files import write_json
from introspect_jax.train.progress import Metrics
from introspect_jax.train.state import state_sha256

INSIDE = "INTROSPECT_JAX_DISK_FULL"
PAGE = 4096


class Disk:
    """A tmpfs that can be filled.

    Attributes:
      path: where it is mounted.
    """

    def __init__(self, path: pathlib.Path, kilobytes: int):
        path.mkdir()
        size = f"size={kilobytes}k"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", path], check=True)
        self.path = path
        self._ballast = path / "ballast"

    def fill(self, free: int) -> None:
        """Leaves so many bytes, in whole pages."""
        self.empty()
        status = os.statvfs(self.path)
        wanted = status.f_bavail * status.f_frsize - free
        # A run may be writing meanwhile.
        with open(self._ballast, "wb") as file, contextlib.suppress(OSError):
            os.posix_fallocate(file.fileno(), 0, max(wanted, 1))
        while not free:
            try:
                with open(self._ballast, "ab") as file:
                    file.write(bytes(PAGE))
            except OSError:
                break

    def empty(self) -> None:
        """Makes room."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        # Lazily: writers that failed may hold a file open.
        subprocess.run(["umount", "--lazy", self.path], check=True)


@contextlib.contextmanager
def mounted(scratch: pathlib.Path, kilobytes: int) -> Iterator[Disk]:
    disk = Disk(scratch / "disk", kilobytes)
    try:
        yield disk
    finally:
        disk.close()
        disk.path.rmdir()


def attempt(action: Callable[[], object]) -> str:
    """ "done", "error: ..." of one line, or what else came."""
    try:
        action()
    except UserError as error:
        return f"error: {error}" if "\n" not in str(error) else "several lines"
    except Exception as error:
        return f"a stack trace: {type(error).__name__}: {str(error)[:200]}"
    return "done"


def newest(folder: pathlib.Path) -> int | None:
    """Step of the newest checkpoint, or None if it is not what was saved."""
    checkpoints = Checkpoints(epath.Path(folder), len(damage.STEPS))
    try:
        found = checkpoints.restore_newest(damage.state_like())
    finally:
        checkpoints.close()
    if not found:
        return None
    step = int(found[0].step)
    right = state_sha256(found[0]) == state_sha256(damage.state_at(step))
    return step if right else None


def check_save(disk: Disk, free: int) -> dict:
    """The second checkpoint is saved where so many bytes are left."""
    folder = disk.path / "run"
    damage.written(folder, [1])
    checkpoints = Checkpoints(epath.Path(folder), len(damage.STEPS))
    disk.fill(free)

    def save() -> None:
        checkpoints.save(damage.state_at(2), damage.meta_of(2))
        checkpoints.wait()

    saved = attempt(save)
    closed = attempt(checkpoints.close)
    disk.empty()
    there = newest(folder)
    again = Checkpoints(epath.Path(folder), len(damage.STEPS))
    if there == 1:
        again.save(damage.state_at(2), damage.meta_of(2))
    again.close()
    after = newest(folder)
    shutil.rmtree(folder)
    return {
        "file": "checkpoint",
        "free": free,
        "outcome": saved,
        "closing": closed,
        "newest then": there,
        "newest with room": after,
        "ok": (there, after) == ((2, 2) if saved == "done" else (1, 2))
        and (saved == "done" or saved.startswith("error"))
        and (closed == "done" or closed.startswith("error")),
    }


def check_metrics(disk: Disk, start: int) -> dict:
    """Records and events are written until no more fit."""
    folder = epath.Path(disk.path / "run")
    folder.mkdir()
    metrics = Metrics(folder, 0)
    metrics.write(0, "cost", {"a": 1.0})
    metrics.write(1, "train", {"a": 1.0})
    if start:
        metrics.close()
    disk.fill(0)

    def write() -> None:
        found = Metrics(folder, start) if start else metrics
        for step in range(2, 10_000):
            found.write(step, "train", {"loss": 1.0 / step})
        found.close()

    outcome = attempt(write)
    closed = attempt(metrics.close) if not start else "done"
    disk.empty()
    continued = Metrics(folder, 1)
    continued.write(2, "train", {"loss": 2.0})
    continued.close()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    shutil.rmtree(folder)
    return {
        "file": "metrics.jsonl and events",
        "start": start,
        "outcome": outcome,
        "closing": closed,
        "ok": outcome.startswith("error")
        and not closed.startswith("a stack")
        and len(lines) == 3,
    }


def check_events(scratch: pathlib.Path, disk: Disk) -> dict:
    """TensorBoard's events alone are on the full disk."""
    folder = epath.Path(scratch / "elsewhere")
    folder.mkdir()
    (disk.path / "events").mkdir()
    (scratch / "elsewhere" / "tensorboard").symlink_to(disk.path / "events")
    metrics = Metrics(folder, 0)
    disk.fill(0)

    def write() -> None:
        for step in range(10_000):
            metrics.write(step, "train", {"loss": 1.0})

    outcome = attempt(write)
    closed = attempt(metrics.close)
    disk.empty()
    shutil.rmtree(disk.path / "events")
    return {
        "file": "events",
        "outcome": outcome,
        "closing": closed,
        "ok": outcome.startswith("error")
        and "tensorboard" in outcome
        and not closed.startswith("a stack"),
    }


def check_json(disk: Disk, name: str) -> dict:
    """A file that is whole or not there."""
    path = epath.Path(disk.path / name)
    write_json(path, {"before": 1})
    disk.fill(0)
    outcome = attempt(lambda: write_json(path, {"after": list(range(5000))}))
    disk.empty()
    kept = path.read_text() == '{\n  "before": 1\n}\n'
    left = [p.name for p in disk.path.iterdir()]
    path.unlink()
    return {
        "file": name,
        "outcome": outcome,
        "left": left,
        "ok": outcome.startswith("error")
        and name in outcome
        and left == [name]
        and kept,
    }


# The line of a run at which its disk is full, and how many bytes are left.
RUNS = (
    ("", 0),
    ("step 12/", 0),
    ("step 20 validation", 0),
    ("step 20 validation", 100_000),  # a checkpoint has 600,000
    ("step 40 validation", 0),
)


def check_run(disk: Disk, line: str, free: int, cache: pathlib.Path) -> dict:
    """A real run meets a full disk at a line, and is continued with room."""
    folder = disk.path / "run"
    if not line:
        disk.fill(free)
    with subprocess.Popen(
        workfolders.command(folder),
        cwd=ROOT,
        env=workfolders.environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout
        assert process.stderr
        filled = not line
        for said in process.stdout:
            if not filled and said.startswith(line):
                disk.fill(free)
                filled = True
        errors = process.stderr.read()
    ended = subprocess.CompletedProcess([], process.returncode, "", errors)
    disk.empty()
    again = workfolders.finish(workfolders.command(folder), cache)
    state = workfolders.end_state(folder) if again.returncode == 0 else {}
    shutil.rmtree(folder)
    return {
        "file": "a run",
        "full at": line or "the start",
        "free": free,
        "filled": filled,
        "status": process.returncode,
        "outcome": workfolders.in_a_line(ended) or errors[-1500:],
        "continued": "continuing from step" in again.stdout,
        "state": state,
        "ok": bool(workfolders.in_a_line(ended)) and filled and again.returncode == 0,
    }


def check_runs(scratch: pathlib.Path, disk: Disk) -> Iterator[dict]:
    """All of `RUNS`, compared with a run that had room."""
    cache = scratch / "cache"
    workfolders.finish(workfolders.command(scratch / "reference"), cache)
    wanted = workfolders.end_state(scratch / "reference")
    for line, free in RUNS:
        row = check_run(disk, line, free, cache)
        state = row.pop("state")
        row["differing"] = [n for n in wanted if state.get(n) != wanted[n]]
        yield row | {"ok": row["ok"] and not row["differing"]}


def enter_namespace() -> None:
    """Starts this program again where it may mount; returns when that was done."""
    if INSIDE in os.environ:
        return
    words = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*words, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"no disk can be mounted here ({error}); nothing was tested")
    os.environ[INSIDE] = "1"
    os.execvp(words[0], [*words, sys.executable, *sys.argv])


def main() -> None:
    quick = "--quick" in sys.argv
    if quick:
        sys.argv.remove("--quick")
    options = workfolders.arguments(__doc__)
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        with mounted(scratch, 1024) as disk:
            pages = (0, 1, 2, 4, 8) if quick else range(0, 40)
            rows = [check_save(disk, count * PAGE) for count in pages]
            rows += [check_metrics(disk, start) for start in (0, 1)]
            rows.append(check_events(scratch, disk))
            rows += [
                check_json(disk, name)
                for name in ("summary.json", "config.json", "teacher.json")
            ]
        if not quick:
            with mounted(scratch, 64 * 1024) as disk:
                rows += check_runs(scratch, disk)
    for row in rows:
        print({name: str(value)[:150] for name, value in row.items()})
    workfolders.report(rows, options.json, disk="tmpfs in a mount namespace")


if __name__ == "__main__":
    enter_namespace()
    main()
