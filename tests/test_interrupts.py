"""Ctrl-C, once and twice, in commands."""

import signal
import subprocess
import sys

import pytest
from conftest import ROOT

# Interrupted while a checkpoint of 64 MB is written: at once, after a while, twice.
PROGRAM = """
import contextlib, os, signal, sys, threading, time
import jax.numpy as jnp
from etils import epath
from introspect_jax import cli
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.state import TrainState

folder, delay, gap = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
sys.argv = sys.argv[:1]

def press():
    for seconds in (delay, gap):
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGINT)

def main():
    with contextlib.ExitStack() as stack:
        checkpoints = Checkpoints(epath.Path(folder), 2)
        stack.callback(checkpoints.close)
        for step in (1, 2):
            values = jnp.arange(8_000_000.0) + step
            state = TrainState(jnp.int32(step), {"w": values}, {}, (), None, {})
            if step == 2:
                checkpoints.wait()
                print("writing", flush=True)
                threading.Thread(target=press).start()
            checkpoints.save(state, {"validation": None})
        time.sleep(20)

cli.run(main)
"""
READ = """
import sys
import jax, jax.numpy as jnp
from etils import epath
from introspect_jax.train.restoring import Restorer
from introspect_jax.train.state import TrainState
values = jax.ShapeDtypeStruct((8_000_000,), jnp.float32)
like = TrainState(jax.ShapeDtypeStruct((), jnp.int32), {"w": values}, {}, (), None, {})
state, _ = Restorer(epath.Path(sys.argv[1])).restore_newest(like)
print(int(state.step))
"""


def python(program, *arguments):
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("delay", [0.05, 0.2])
def test_twice_in_quick_succession(tmp_path, delay):
    """As one: the checkpoint is finished, and there is no trace."""
    done = python(PROGRAM, tmp_path, delay, 0.05)
    assert done.returncode == 130, done.stderr
    assert done.stdout == "writing\n"
    lines = done.stderr.splitlines()
    assert lines[-1] == "interrupted; the same command continues"
    assert set(lines[:-1]) <= {
        "a checkpoint is being written; Ctrl-C again does not wait"
    }
    read = python(READ, tmp_path)
    assert read.stdout == "2\n", read.stderr


def test_while_packages_are_imported(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "launch/main.py"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if line.rstrip().endswith("| absl"):
            break
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    assert "Traceback" not in errors
