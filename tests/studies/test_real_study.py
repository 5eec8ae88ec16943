"""A small real study on digits: killed in the middle, it comes to the same tables."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT

STUDY = "configs/studies/digits.py"
TIMES = ("step_seconds", "seconds", "date", "cpus_used")


def launch(command, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, f"launch/{command}.py", *arguments],
        cwd=ROOT,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def finish(process):
    shown, _ = process.communicate(timeout=900)
    assert process.returncode == 0, shown
    return shown


def without_times(value):
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not k.startswith(TIMES)}
        return {k: without_times(v) for k, v in kept.items()}
    if isinstance(value, list):
        return [without_times(v) for v in value]
    return value


def report(folder: pathlib.Path):
    output = folder / "report"
    finish(launch("report", f"--workdir={folder}", f"--output={output}"))
    return json.loads((output / "statistics.json").read_text())


@pytest.mark.slow
def test_killed_and_continued_to_the_same_tables(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    workers = min(2, len(os.sched_getaffinity(0)))
    options = [f"--study={STUDY}", f"--workers={workers}"]
    finish(launch("study", *options, f"--workdir={whole}"))

    process = launch("study", *options, f"--workdir={cut}")
    deadline = time.monotonic() + 300
    while not list(cut.glob("runs/*/summary.json")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(3)  # somewhere in the next run
    os.kill(process.pid, signal.SIGKILL)  # the study alone: its workers must notice
    process.communicate()
    done = len(list(cut.glob("runs/*/summary.json")))
    assert 1 <= done < 11
    time.sleep(2)
    assert len(list(cut.glob("runs/*/summary.json"))) == done
    shown = finish(launch("study", *options, f"--workdir={cut}"))
    assert "11/11 runs" in shown
    assert "all runs are done" in shown
    assert without_times(report(cut)) == without_times(report(whole))

    # The same command twice gives the same table, to the byte.
    before = (cut / "report" / "README.md").read_bytes()
    report(cut)
    assert (cut / "report" / "README.md").read_bytes() == before

    # A row can be had again from its record alone.
    record = json.loads(next((cut / "report/runs").glob("intro*seed-0-*")).read_text())
    words = record["command"].split()[2:]
    again = tmp_path / "again"
    # On as many cores: sums over threads are not the same on more.
    cores = sorted(os.sched_getaffinity(0))[: record["summary"]["device"]["cpus_used"]]
    finish(
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import os, runpy, sys; os.sched_setaffinity(0, {cores})\n"
                f"sys.argv = {['launch/main.py', *words, f'--workdir={again}']}\n"
                "runpy.run_path('launch/main.py', run_name='__main__')",
            ],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "XLA_FLAGS"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    )
    found = json.loads((again / "summary.json").read_text())
    assert found["state_sha256"] == record["summary"]["state_sha256"]
    assert found["test"] == record["summary"]["test"]


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_continues(tmp_path):
    options = [f"--study={STUDY}", f"--workdir={tmp_path}"]
    process = launch("study", *options)
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("runs/*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    shown = finish(process)
    assert "saved; it will be continued" in shown
    assert "the same command continues" in shown
    folders = [p.parent for p in tmp_path.glob("runs/*/checkpoints")]
    assert folders
    shown = finish(launch("study", *options, "--time_budget=40"))
    logs = "".join(p.read_text() for p in tmp_path.glob("logs/*"))
    assert "continuing from step" in logs
