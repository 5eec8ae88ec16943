"""Several processes on one machine: one run, shared."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from tiny import TINY

from introspect_jax.processes import STOPPED

FIELDS = {
    "model.name": TINY,
    "batch_size": 32,
    "total_steps": 12,
    "log_steps": 2,
    "eval_steps": 4,
    "checkpoint_steps": 2,
    "eval_batch_size": 64,
    "parallel.mode": "pmapped",
    "parallel.replicas": 2,
}
MINUTES = 60
STREAMS = {"data.device_megabytes": 0}
slow = pytest.mark.slow


class Processes:
    """`launch/main.py` in one process with two devices, or in two with one each."""

    def __init__(
        self, folder: pathlib.Path, workdir: str, count: int, last=None, **fields
    ):
        """`last` is set in the environment of the last one."""
        last = last or {}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        given = FIELDS | fields
        self.reads = [folder / f"{workdir}-reads-{i}" for i in range(count)]
        self.outputs = [folder / f"{workdir}-output-{i}" for i in range(count)]
        self.processes = []
        for number in range(count):
            shared = (
                [
                    f"--coordinator=127.0.0.1:{port}",
                    f"--num_processes={count}",
                    f"--process_id={number}",
                ]
                if count > 1
                else []
            )
            with open(self.outputs[number], "w") as output:
                self.processes.append(
                    subprocess.Popen(
                        [
                            sys.executable,
                            str(ROOT / "tests" / "child.py"),
                            str(self.reads[number]),
                            str(2 // count),
                            f"--config={ROOT / 'configs' / 'digits.py'}",
                            *(f"--config.{n}={v}" for n, v in given.items()),
                            f"--workdir={folder / workdir}",
                            *shared,
                        ],
                        stdout=output,
                        stderr=output,
                        env=os.environ
                        | {"JAX_COMPILATION_CACHE_DIR": str(folder / "cache")}
                        | (last if number == count - 1 else {}),
                    )
                )

    def wait(self) -> list[int]:
        try:
            return [p.wait(timeout=5 * MINUTES) for p in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def text(self, number: int) -> str:
        return self.outputs[number].read_text()

    def numbers(self, number: int) -> list[list[int]]:
        lines = self.reads[number].read_text().splitlines()
        return [[int(n) for n in line.split()] for line in lines]


def logged(workdir: pathlib.Path) -> int:
    """The last step that is in the records of a run."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(line)["step"] for line in lines), default=0)


def wait_for_step(workdir: pathlib.Path, step: int) -> None:
    """Returns when the run has logged it."""
    for _ in range(3000):
        if logged(workdir) >= step:
            return
        time.sleep(0.1)
    raise AssertionError(f"step {step} was never logged")


def wait_for_checkpoint(workdir: pathlib.Path) -> None:
    """Returns when a checkpoint is there; steps may be quicker than their saving."""
    for _ in range(3000):
        if list((workdir / "checkpoints").glob("[0-9]*/commit_success.txt")):
            return
        time.sleep(0.1)
    raise AssertionError("no checkpoint was ever saved")


def summary(workdir: pathlib.Path) -> dict:
    return json.loads((workdir / "summary.json").read_text())


@pytest.mark.parametrize("kind", ["streams", pytest.param("lies", marks=slow)])
def test_two_processes_are_one_run(tmp_path, kind):
    """The same bits as one process; data shared; one of them writes."""
    two = Processes(tmp_path, "two", 2, **STREAMS if kind == "streams" else {})
    assert two.wait() == [0, 0], two.text(0) + two.text(1)
    shares = [two.numbers(0), two.numbers(1)]
    if kind == "streams":
        # Both see the first eight images, to check the network.
        assert [r[0] for r in shares] == [list(range(8))] * 2
        shares = [r[1:] for r in shares]
        assert {len(line) for r in shares for line in r} == {16}
        assert len(shares[0]) == len(shares[1]) >= 12
        for mine, theirs in zip(*shares, strict=True):
            assert not set(mine) & set(theirs)
    else:
        pool = [max(r, key=len) for r in shares]
        assert sorted({*pool[0], *pool[1]}) == list(range(1293))
        assert len(pool[0]) + len(pool[1]) <= 1294
    assert "step 12/12" in two.text(0)
    assert "step" not in two.text(1)
    one = Processes(tmp_path, "one", 1)
    assert one.wait() == [0], one.text(0)
    found = [summary(tmp_path / name) for name in ("two", "one")]
    assert found[0]["state_sha256"] == found[1]["state_sha256"]
    assert found[0]["test"] == found[1]["test"]
    records = [
        len((tmp_path / name / "metrics.jsonl").read_text().splitlines())
        for name in ("two", "one")
    ]
    assert records[0] == records[1]


@slow
@pytest.mark.parametrize("phase", ["compile", "steps", "evaluate"])
@pytest.mark.parametrize("count", [1, 2])
def test_sigterm_saves_and_any_number_of_processes_continues(tmp_path, count, phase):
    """The signal reaches one process, the last; all of them stop at one step."""
    fields = {"total_steps": 400, "eval_steps": 100, "checkpoint_steps": 400}
    fields["log_steps"] = 10
    fields["eval_batch_size"] = 2  # an evaluation takes long enough to be hit
    whole = Processes(tmp_path, "whole", 1, **fields)
    assert whole.wait() == [0], whole.text(0)
    # Programs that are not cached take long enough, too.
    inside = {"SIGTERM_IN": phase, "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cold")}
    stopped = Processes(
        tmp_path, "stopped", count, inside if phase != "steps" else None, **fields
    )
    if phase == "steps":
        wait_for_step(tmp_path / "stopped", 20)
        stopped.processes[-1].send_signal(signal.SIGTERM)
    assert stopped.wait() == [STOPPED] * count, stopped.text(0) + stopped.text(-1)
    if phase != "steps":
        assert f"SIGTERM, {phase} has ended: False" in stopped.text(-1)
    assert "the same command continues" in stopped.text(0)
    at = int(re.search(r"stopped at step (\d+) of 400", stopped.text(0))[1])
    assert not (tmp_path / "stopped" / "summary.json").exists()
    again = Processes(tmp_path, "stopped", 3 - count, **fields)
    assert set(again.wait()) == {0}, again.text(0)
    said = f"continuing from step {at}" in again.text(0)
    assert said if at else "continuing" not in again.text(0)
    assert {"compile": 0, "steps": 20, "evaluate": 100}[phase] <= at < 400
    # A single process has seen it by the next step; several agree on a later one.
    if count == 1 and phase != "steps":
        assert at == {"compile": 0, "evaluate": 101}[phase]
    found = [summary(tmp_path / name)["state_sha256"] for name in ("whole", "stopped")]
    assert found[0] == found[1]


@slow
def test_a_teacher_is_trained_first_by_all(tmp_path):
    """By two processes as by one, and the student after it."""
    fields = {"method.name": "kd", "method.teacher_steps": 8}
    found = []
    for workdir, count in (("two/run", 2), ("one/run", 1)):
        (tmp_path / workdir).parent.mkdir()
        run = Processes(tmp_path, workdir, count, **fields)
        assert set(run.wait()) == {0}, run.text(0) + run.text(-1)
        found.append(summary(tmp_path / workdir))
    assert found[0]["state_sha256"] == found[1]["state_sha256"]
    teachers = [f["teacher"]["state_sha256"] for f in found]
    assert teachers[0] == teachers[1]


@slow
def test_a_damaged_checkpoint_is_set_aside_once(tmp_path):
    """Both find it damaged, and both go on from the one before."""
    fields = {"total_steps": 400, "eval_steps": 400, "checkpoint_steps": 20}
    fields["log_steps"] = 10
    two = Processes(tmp_path, "two", 2, **fields)
    wait_for_step(tmp_path / "two", 100)
    for process in two.processes:
        process.kill()
    two.wait()
    steps = [
        p for p in (tmp_path / "two" / "checkpoints").iterdir() if p.name.isdigit()
    ]
    newest = max(steps, key=lambda p: int(p.name))
    largest = max(newest.rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    again = Processes(tmp_path, "two", 2, **fields)
    assert again.wait() == [0, 0], again.text(0) + again.text(1)
    aside = [p.name for p in (tmp_path / "two" / "damaged").iterdir()]
    assert aside == [f"{newest.name}-0"]
    assert f"the checkpoint of step {newest.name} is damaged" in again.text(0)
    assert "continuing from step" in again.text(0)


@slow
def test_a_process_that_dies_ends_the_other(tmp_path):
    fields = {"total_steps": 3000, "log_steps": 10, "checkpoint_steps": 20}
    fields["eval_steps"] = 3000
    two = Processes(tmp_path, "two", 2, **fields)
    wait_for_checkpoint(tmp_path / "two")
    two.processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    codes = two.wait()
    assert codes[0] not in (0, None)
    assert time.monotonic() - began < 90  # the heartbeat is 30 s
    reached = logged(tmp_path / "two")
    again = Processes(tmp_path, "two", 2, **fields)
    wait_for_step(tmp_path / "two", reached + 1)
    for process in again.processes:
        process.kill()
    again.wait()
    assert "continuing from step" in again.text(0)


@slow
def test_a_process_that_hangs_ends_the_other(tmp_path):
    """It is alive, so only a watchdog can tell: its own, or that of the other."""
    two = Processes(
        tmp_path,
        "two",
        2,
        last={"HANG_AT": "7"},
        **{"parallel.watchdog_seconds": 15.0},
    )
    assert two.wait() == [STOPPED] * 2
    said = two.text(0) + two.text(1)
    assert "no step was finished for" in said
    assert "the same command continues" in two.text(0)
