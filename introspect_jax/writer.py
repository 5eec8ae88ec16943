"""One writer for a folder: the second is refused, and one that was killed is not asked.

On local disks, and on network file systems whose locks work, the kernel decides: its
lock ends with the process that held it. Elsewhere (`gs://`, network file systems
without locks) the record of the writer decides, which is written anew every few
seconds: whoever finds the record of another host watches it for a while. Two that start
there within `_SETTLING_SECONDS` of each other may both find nothing; the one that wrote
first is refused when it reads the record again, unless the store shows it old content.
"""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from typing import IO, Any, NoReturn

from absl import logging
from etils import epath

from introspect_jax.errors import UserError
from introspect_jax.processes import STOPPED
from introspect_jax.train.files import writing

NAME = ".writer"
_BEAT_SECONDS, _BEAT_SECONDS_REMOTE = 5.0, 15.0
_SETTLING_SECONDS = 2.0
_LOCKED = (errno.EACCES, errno.EAGAIN)


@contextlib.contextmanager
def only_writer(folder: epath.Path, flag: str = "--workdir") -> Iterator[None]:
    """Context in which no other process writes to the folder under this lock.

    Args:
      folder: There, and writable.
      flag: What chooses another folder, for the message.

    Raises:
      UserError: Another process writes to it; names the process.
    """
    remote = "://" in os.fspath(folder)
    with contextlib.ExitStack() as stack:
        locked = False
        record = folder / NAME
        if not remote:
            with writing(record):
                file = stack.enter_context(open(record, "a+b"))
            locked = _lock(file, folder, flag)
        before = _read(record)
        # The kernel's word is the last one about processes of its own.
        if before and not (locked and before.get("kernel") == _kernel()):
            _watch(record, before, folder, flag, remote)
        beat = _BEAT_SECONDS_REMOTE if remote else _BEAT_SECONDS
        mine = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "kernel": _kernel(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            "id": uuid.uuid4().hex,
        }
        with writing(record):
            _write(record, mine, 0)
        if not locked:
            time.sleep(_SETTLING_SECONDS)
            now = _read(record)
            if now and now.get("id") != mine["id"]:
                raise _refusal(folder, now, flag)
        stack.callback(_clear, record, mine)
        stack.enter_context(_beating(record, mine, beat, alone=locked))
        yield


def _lock(file: IO[bytes], folder: epath.Path, flag: str) -> bool:
    """Takes the lock of the kernel; returns False if the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED:
            raise _refusal(folder, _read(folder / NAME) or {}, flag) from None
        logging.warning(
            "%s: its file system has no locks (%s); that no other process writes there "
            "is known by a record of the writer alone",
            folder,
            error.strerror,
        )
        return False
    return True


def _watch(
    record: epath.Path, before: dict, folder: epath.Path, flag: str, remote: bool
) -> None:
    """Waits for a heartbeat of the recorded writer; returns if there is none."""
    seconds = 3 * (_BEAT_SECONDS_REMOTE if remote else _BEAT_SECONDS)
    logging.warning(
        "%s: %s was the last to write there and did not say that it has ended; waiting "
        "%.0f s for a sign of life",
        folder,
        _who(before),
        seconds,
    )
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(min(1.0, seconds / 10))
        now = _read(record)
        if now is None:
            return  # it has ended
        if now and now != before:
            raise _refusal(folder, now, flag)


@contextlib.contextmanager
def _beating(
    record: epath.Path, mine: dict[str, Any], seconds: float, *, alone: bool
) -> Iterator[None]:
    """Context in which the record is written anew every few seconds.

    A writer that was stopped for longer than others wait may have been replaced. It
    ends then, unless the lock of the kernel says that it is `alone`.
    """
    done = threading.Event()

    def beat() -> None:
        count = 0
        while not done.wait(seconds):
            count += 1
            # Stores have errors of their own; a full disk is reported by others.
            with contextlib.suppress(Exception):
                now = None if alone else _read(record)
                if now and now.get("id") != mine["id"]:
                    _replaced(record, now)
                _write(record, mine, count)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _replaced(record: epath.Path, by: dict[str, Any]) -> NoReturn:
    print(
        f"error: {_who(by)} has taken over {os.fspath(record.parent)!r} while this "
        "process did not respond; it continues there",
        file=sys.stderr,
        flush=True,
    )
    os._exit(STOPPED)


def _write(record: epath.Path, mine: dict[str, Any], beats: int) -> None:
    """Overwrites the record in place: the lock belongs to the file."""
    text = json.dumps(mine | {"beats": f"{beats:012d}"}) + "\n"
    if "://" in os.fspath(record):
        record.write_text(text)
        return
    with open(record, "r+b") as file:
        file.write(text.encode())
        file.truncate()


def _clear(record: epath.Path, mine: dict[str, Any]) -> None:
    """Empties the record when the writer ends."""
    with contextlib.suppress(Exception):  # stores have errors of their own
        now = _read(record)
        if now and now.get("id") == mine["id"]:
            record.write_text("")


def _read(record: epath.Path) -> dict[str, Any] | None:
    """Returns the record of a writer that has not ended, or None; an empty one if it
    cannot be read now."""
    try:
        text = record.read_text()
        return json.loads(text) if text else None
    except FileNotFoundError:
        return None
    except Exception:  # stores have errors of their own; half a record is no JSON
        return {}


def _kernel() -> str:
    """Returns an identifier of the running kernel."""
    with contextlib.suppress(OSError):
        return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


def _who(record: dict[str, Any]) -> str:
    if "process" not in record:
        return "another process"
    return (
        f"process {record['process']} on {record.get('host')} (since "
        f"{record.get('since')})"
    )


def _refusal(folder: epath.Path, record: dict[str, Any], flag: str) -> UserError:
    return UserError(
        f"{_who(record)} is writing to {os.fspath(folder)!r}; wait until it ends, stop "
        f"it, or choose another folder with {flag}"
    )
