"""One writer for a folder, with the kernel's locks and without."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT
from etils import epath

from introspect_jax import writer
from introspect_jax.errors import UserError
from introspect_jax.writer import only_writer

# Says when it holds the folder, and holds it until its input ends.
HOLD = """
import sys
from etils import epath
from introspect_jax.writer import only_writer
with only_writer(epath.Path(sys.argv[1])):
    print("here", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that writes to `tmp_path`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "here\n"
    yield process
    process.kill()
    process.communicate()


def hold(folder):
    with only_writer(epath.Path(folder)):
        pass


def test_the_second_is_refused_and_the_first_named(other, tmp_path):
    with pytest.raises(UserError, match=rf"process {other.pid} on \S+ \(since .* is"):
        hold(tmp_path)
    other.communicate()  # it ends
    hold(tmp_path)
    assert (tmp_path / writer.NAME).read_text() == ""


def test_one_that_was_killed_does_not_block(other, tmp_path):
    other.send_signal(signal.SIGKILL)
    other.wait()
    began = time.monotonic()
    hold(tmp_path)
    assert time.monotonic() - began < 1


def test_two_of_one_process(tmp_path):
    refused = pytest.raises(UserError, match=f"process {os.getpid()} on")
    with only_writer(epath.Path(tmp_path)), refused:
        hold(tmp_path)
    hold(tmp_path)


@pytest.fixture
def quick_beats(monkeypatch):
    monkeypatch.setattr(writer, "_BEAT_SECONDS", 0.2)
    monkeypatch.setattr(writer, "_SETTLING_SECONDS", 0.3)


def no_locks(monkeypatch):
    def flock(*arguments):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)


def write_record(folder, **changes):
    record = {"process": 7, "host": "far", "kernel": "another", "since": "today"}
    record |= {"id": "x", "beats": "0"} | changes
    (folder / writer.NAME).write_text(json.dumps(record))


@pytest.mark.parametrize("locks", [True, False], ids=["locks", "no locks"])
def test_a_writer_of_another_host(tmp_path, monkeypatch, quick_beats, locks, caplog):
    """Whose lock this one does not see: its record tells whether it lives."""
    if not locks:
        no_locks(monkeypatch)
    write_record(tmp_path)
    done = threading.Event()

    def live():
        count = 0
        while not done.wait(0.1):
            count += 1
            write_record(tmp_path, beats=str(count))

    thread = threading.Thread(target=live)
    thread.start()
    with pytest.raises(UserError, match="process 7 on far"):
        hold(tmp_path)
    done.set()
    thread.join()
    with caplog.at_level("WARNING", logger="absl"):
        hold(tmp_path)  # it lives no more
    assert (
        "did not say that it has ended; waiting 1 s for a sign of life" in caplog.text
    )


def test_without_locks_the_one_that_wrote_first_steps_back(
    tmp_path, monkeypatch, quick_beats
):
    no_locks(monkeypatch)
    timer = threading.Timer(0.1, write_record, [tmp_path])
    timer.start()
    with pytest.raises(UserError, match="process 7 on far"):
        hold(tmp_path)
    timer.join()


def test_the_record_beats(tmp_path, monkeypatch, quick_beats):
    monkeypatch.setattr(writer, "_BEAT_SECONDS", 0.05)
    with only_writer(epath.Path(tmp_path)):
        beats = set()
        end = time.monotonic() + 2
        while len(beats) < 3 and time.monotonic() < end:
            text = (tmp_path / writer.NAME).read_text()
            beats.add(json.loads(text)["beats"])  # never half a record
        assert len(beats) == 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_one_that_was_replaced_ends(tmp_path, monkeypatch, quick_beats):
    """It was stopped for longer than another one waited, where there are no locks."""
    no_locks(monkeypatch)
    ended = threading.Event()

    def leave(code):
        assert code == 75
        ended.set()
        raise SystemExit

    monkeypatch.setattr(writer.os, "_exit", leave)
    with only_writer(epath.Path(tmp_path)):
        write_record(tmp_path)
        assert ended.wait(10)
    assert "far" in (tmp_path / writer.NAME).read_text()


def test_a_folder_of_someone_else(tmp_path, monkeypatch):
    (tmp_path / writer.NAME).mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        hold(tmp_path)


def test_a_full_disk_does_not_end_the_writer(tmp_path, monkeypatch, quick_beats):
    monkeypatch.setattr(writer, "_BEAT_SECONDS", 0.05)
    with only_writer(epath.Path(tmp_path)):

        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(writer, "_write", full)
        time.sleep(0.3)
    hold_again = only_writer(epath.Path(tmp_path))
    monkeypatch.undo()
    with hold_again:
        pass
