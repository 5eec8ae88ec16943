"""Damage met by the real command."""

import pathlib
import shutil
from collections.abc import Callable, Iterator

import workfolders


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def halve(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path: pathlib.Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def _largest(folder: pathlib.Path, step: int) -> pathlib.Path:
    state = folder / "checkpoints" / str(step) / "state"
    return max(
        (path for path in state.rglob("*") if path.is_file()),
        key=lambda path: path.stat().st_size,
    )


def _all_files(folder: pathlib.Path) -> None:
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file():
            halve(path)


def cases(best: int) -> Iterator[tuple[str, Callable[[pathlib.Path], object], str]]:
    """Name, damage to an unfinished work folder, and a word of what must be said.

    Args:
      best: the step of the best checkpoint.
    """
    newest = workfolders.STEPS
    told = f"checkpoint of step {newest} is damaged"
    yield "newest: array, a bit", lambda f: flip(_largest(f, newest)), told
    yield (
        "newest: manifest.ocdbt, halved",
        lambda f: halve(f / "checkpoints" / str(newest) / "state" / "manifest.ocdbt"),
        told,
    )
    yield (
        "best: meta, zeroed",
        lambda f: zero(f / "checkpoints" / str(best) / "meta" / "metadata"),
        f"checkpoint of step {best} is damaged",
    )
    yield "all checkpoints, halved", _all_files, "error: every checkpoint"
    yield "config.json, halved", lambda f: halve(f / "config.json"), "error: "
    yield "config.json, removed", lambda f: (f / "config.json").unlink(), "error: "
    yield "metrics.jsonl, zeroed", lambda f: zero(f / "metrics.jsonl"), "are missing"
    yield "metrics.jsonl, a bit", lambda f: flip(f / "metrics.jsonl"), ""
    yield (
        "summary.json, halved",
        lambda f: (f / "summary.json").write_text('{"name": "digits", "test":'),
        "summary.json is damaged",
    )


def check_runs(scratch: pathlib.Path) -> list[dict]:
    """The command continues each damaged folder, or says in a line why it cannot."""
    cache, whole, folder = scratch / "cache", scratch / "reference", scratch / "run"
    first = workfolders.finish(workfolders.command(whole), cache)
    if first.returncode:
        raise RuntimeError(f"the reference run failed: {first.stderr[-2000:]}")
    wanted = workfolders.end_state(whole)
    rows = []
    for name, damage, told in cases(wanted["steps"]["best"]):
        shutil.copytree(whole, folder)
        (folder / "summary.json").unlink()
        damage(folder)
        process = workfolders.finish(workfolders.command(folder), cache)
        line = workfolders.in_a_line(process)
        if name.startswith("all checkpoints"):  # they were set aside
            again = workfolders.finish(workfolders.command(folder), cache)
        else:
            again = process
        same = None
        if again.returncode == 0:
            same = workfolders.end_state(folder)["state_sha256"]
            same = same == wanted["state_sha256"]
        ended = bool(line) if told.startswith("error") else process.returncode == 0
        rows.append(
            {
                "run": name,
                "status": process.returncode,
                "said": line or process.stderr[-600:],
                "same state": same,
                "ok": ended
                and told in process.stderr
                and "Traceback" not in process.stderr
                and same is not False,
            }
        )
        shutil.rmtree(folder)
    rows.append(_check_teacher(scratch, cache))
    return rows


def _check_teacher(scratch: pathlib.Path, cache: pathlib.Path) -> dict:
    """The record of a student's teacher is damaged."""
    words = workfolders.command(scratch / "student", "--config.method.name=kd")
    first = workfolders.finish(words, cache)
    zero(scratch / "student" / "teacher.json")
    (scratch / "student" / "summary.json").unlink()
    line = workfolders.in_a_line(workfolders.finish(words, cache))
    return {
        "run": "teacher.json, zeroed",
        "status": first.returncode,
        "said": line,
        "ok": first.returncode == 0 and bool(line) and "teacher.json" in str(line),
    }
