"""Kills a real run at 20 random moments; the same command must then end alike.

A run is killed (SIGKILL) and the same command is given again: state, scores, records,
files and checkpoints must be those of a run that nothing happened to, bit for bit.
python tests/reliability/kill.py [--json=FILE]
"""

import collections
import contextlib
import dataclasses
import json
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import workfolders
from workfolders import EVAL_STEPS, ROOT, STEPS

SEED = 0
# Two images a batch: evaluations take long enough to be hit.
SLOW = "--config.eval_batch_size=2"
PATIENCE = 300.0  # seconds for something to be seen
# The command itself, and it tells where it is when it is asked.
TELLING = """
import faulthandler, runpy, signal, sys
faulthandler.register(signal.SIGUSR1, all_threads=False)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
# The innermost of these that the main thread is in; the first that matches counts.
PHASES = (
    ("pictures", r'figures\.py", line \d+ in draw_all'),
    ("evaluation", r'evaluator\.py", line \d+ in __call__\n(.*\n)*.* in _evaluate'),
    ("final test evaluation", r'evaluator\.py", line \d+ in examples'),
    ("restoring", r'checkpoint\.py", line \d+ in (restore_best|_restore)'),
    ("checkpoint write", r'checkpoint\.py", line \d+ in (save|wait|close)'),
    ("compilation", r'trainer\.py", line \d+ in compile'),
    ("steps", r'loop\.py", line \d+ in run'),
    ("before the first step", r'loop\.py", line \d+ in train'),
    ("end of the run", r" in (show|write_json|describe_device|describe_versions)"),
)


@dataclasses.dataclass(frozen=True)
class Moment:
    """So long after something is seen for the n-th time.

    Attributes:
      aim: what it is for.
      seen: "start", "config" (its file), "folder N" (of a checkpoint, finished or not),
        one of `PHASES`, or the beginning of a line.
      seconds: that pass then.
      cold: without compiled programs of runs before.
    """

    aim: str
    seen: str
    seconds: float
    cold: bool = False


def moments(timeline: dict[str, float]) -> list[Moment]:
    """Twenty, from a seed and the seconds that the parts of the reference run took."""
    chosen = random.Random(SEED)
    saved = range(EVAL_STEPS, STEPS + 1, EVAL_STEPS)

    def within(seconds: float) -> float:
        return chosen.uniform(0, seconds)

    found = [
        Moment("start", "start", 1 + within(timeline["config"] - 1)) for _ in range(2)
    ]
    first = timeline["first step when cold"] - timeline["config"]
    found.append(Moment("compilation", "config", within(first), True))
    for _ in range(2):
        found.append(Moment("compilation", "compilation", within(first / 4), True))
    for _ in range(3):
        line = f"step {2 * chosen.randrange(1, STEPS // 2)}/"
        found.append(Moment("steps", line, within(0.05)))
    for _ in range(3):
        line = f"step {chosen.choice(saved)}/"
        found.append(Moment("evaluation", line, within(0.03)))
    for _ in range(4):
        folder = f"folder {chosen.choice(saved)}"
        found.append(Moment("checkpoint write", folder, within(0.06)))
    rest = timeline["end"] - timeline["last validation"]
    end = f"step {STEPS} validation"
    found += [Moment("end", end, within(rest)) for _ in range(3)]
    last = "final test evaluation"  # it is short, so the run is asked until it is there
    return found + [Moment(last, last, within(0.02)) for _ in range(2)]


def seen(moment: str, folder: pathlib.Path, output: str) -> bool:
    """Whether it has come."""
    if moment == "start":
        return True
    if moment == "config":
        return (folder / "config.json").exists()
    if moment.startswith("folder "):
        step = moment.removeprefix("folder ")
        return any((folder / "checkpoints").glob(f"{step}*"))
    return f"\n{moment}" in f"\n{output}"


def where(trace: str, left: list[str], stepped: bool = False) -> str:
    """The phase, of the stack and of the unfinished checkpoints that were left."""
    matching = [name for name, pattern in PHASES if re.search(pattern, trace)]
    name = (matching or ["not known" if stepped else "imports and data"])[0]
    return f"{name}, a checkpoint half written" if left else name


def ask(process: subprocess.Popen, log: pathlib.Path) -> str:
    """The stack of its main thread, which it writes into its log at once."""
    before = told = log.stat().st_size
    if process.poll() is None:
        os.kill(process.pid, signal.SIGUSR1)
    until = time.monotonic() + 1
    while time.monotonic() < until:
        time.sleep(0.001)
        size = log.stat().st_size
        if (size == told and size > before) or process.poll() is not None:
            break
        told = size
    return log.read_bytes()[before:].decode(errors="replace")


def kill_at(moment: Moment, folder: pathlib.Path, cache: pathlib.Path) -> dict:
    """Runs the command, kills it and all its processes then, and tells where it was."""
    words = workfolders.command(folder, SLOW)
    log = folder.parent / "killed.log"
    with (
        log.open("w") as errors,
        (folder.parent / "killed.out").open("w") as output,
        subprocess.Popen(
            [words[0], "-c", TELLING, *words[1:]],
            cwd=ROOT,
            env=workfolders.environment(cache),
            stdout=output,
            stderr=errors,
            start_new_session=True,
        ) as process,
    ):
        began = time.monotonic()
        path = pathlib.Path(output.name)
        asked = moment.seen in dict(PHASES)
        awaited = moment.seen
        if asked:
            awaited = "config" if moment.cold else f"step {STEPS}/"
        while not seen(awaited, folder, path.read_text()):
            if process.poll() is not None or time.monotonic() - began > PATIENCE:
                break
            time.sleep(0.001)
        while asked and process.poll() is None:
            if where(ask(process, log), []) == moment.seen:
                break
            time.sleep(0.02)
        time.sleep(moment.seconds)
        trace = ask(process, log)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    left = [path.name for path in (folder / "checkpoints").glob("*tmp*")]
    done = (folder / "summary.json").exists()
    steps = re.findall(r"^step (\d+)/", path.read_text(), re.MULTILINE)
    return {
        "phase": "after the summary" if done else where(trace, left, bool(steps)),
        "status": process.returncode,
        "killed": process.returncode == -signal.SIGKILL,
        "last logged step": int(steps[-1]) if steps else 0,
        "saved": sorted(
            int(path.name)
            for path in (folder / "checkpoints").glob("*")
            if path.name.isdigit()
        ),
    }


def reference(folder: pathlib.Path, cache: pathlib.Path) -> dict[str, float]:
    """Runs the command to its end; the seconds at which its parts began."""
    timeline: dict[str, float] = {}
    with subprocess.Popen(
        workfolders.command(folder, SLOW),
        cwd=ROOT,
        env=workfolders.environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        began = time.monotonic()
        while not (folder / "config.json").exists() and process.poll() is None:
            time.sleep(0.01)
        timeline["config"] = time.monotonic() - began
        assert process.stdout
        assert process.stderr
        for line in process.stdout:
            now = time.monotonic() - began
            if line.startswith("step"):
                timeline.setdefault("first step", now)
            if line.startswith(f"step {STEPS} validation"):
                timeline["last validation"] = now
        errors = process.stderr.read()
    timeline["end"] = time.monotonic() - began
    if process.returncode:
        sys.exit(f"the reference run failed: {errors[-2000:]}")
    return timeline


def main() -> None:
    options = workfolders.arguments(__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        cache = scratch / "cache"
        cold = reference(scratch / "reference", cache)
        wanted = workfolders.end_state(scratch / "reference")
        # How long the parts take of those that find the compiled programs.
        timeline = reference(scratch / "again", cache)
        if workfolders.end_state(scratch / "again") != wanted:
            sys.exit("two runs that nothing happened to differ: nothing was tested")
        timeline["first step when cold"] = cold["first step"]
        print("seconds of the reference run:", json.dumps(timeline), flush=True)
        for number, moment in enumerate(moments(timeline)):
            folder = scratch / "run"
            programs = scratch / "cold" if moment.cold else cache
            for tries in range(1, 6):
                row = {"number": number, **dataclasses.asdict(moment), "tries": tries}
                row |= kill_at(moment, folder, programs)
                if row["killed"]:
                    break
                # It came to its end before, faster than the run that was measured.
                shutil.rmtree(folder)
                moment = dataclasses.replace(moment, seconds=moment.seconds / 2)
            again = workfolders.finish(workfolders.command(folder, SLOW), programs)
            continued = re.search(r"continuing from step (\d+)", again.stdout)
            differing = ["exit status"]
            if again.returncode == 0:
                found = workfolders.end_state(folder)
                differing = [name for name in wanted if found[name] != wanted[name]]
            row |= {
                "continued from": int(continued[1]) if continued else 0,
                "differing": differing,
                "ok": row["killed"]
                and not differing
                and not again.stderr.count("Trace"),
            }
            if not row["ok"]:
                row["stderr"] = again.stderr[-1000:]
            rows.append(row)
            print(json.dumps(row), flush=True)
            for used in (folder, scratch / "cold"):
                shutil.rmtree(used, ignore_errors=True)
    phases = collections.Counter(row["phase"] for row in rows)
    for phase, count in phases.most_common():
        print(f"{phase}: {count}")
    workfolders.report(
        rows,
        options.json,
        seed=SEED,
        phases=dict(phases),
        state_sha256=wanted["state_sha256"],
        seconds={name: round(value, 2) for name, value in timeline.items()},
    )


if __name__ == "__main__":
    main()
