"""Writes files as a whole or not at all, and reads them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from absl import logging
from etils import epath

from introspect_jax.errors import UserError

# Of the other fields of a file.
_DIGEST = "file_sha256"


@contextlib.contextmanager
def writing(path: os.PathLike) -> Iterator[None]:
    """Context in which errors of the file system are raised as UserErrors.

    Raises:
      UserError: names the file: a full disk, a quota, missing rights.
    """
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{os.fspath(path)!r} cannot be written ({error.strerror or error}); what "
            "was saved is kept: make room, then run the same command"
        ) from error


def write_text(path: epath.Path, text: str) -> None:
    """Writes the whole file or nothing; raises the errors of `writing`."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, content: bytes) -> None:
    """As `write_text`."""
    temporary = path.parent / f"{path.name}.tmp"
    with writing(path):
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: epath.Path, value: Any) -> None:
    """Writes the whole file or nothing; raises the errors of `writing`."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_checked_json(path: epath.Path, value: dict[str, Any]) -> None:
    """Like `write_json`, with a digest by which `read_json` detects damage."""
    write_json(path, value | {_DIGEST: _digest(value)})


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_json(path: epath.Path, *needed: str) -> dict[str, Any]:
    """Reads a JSON object and checks that it has the `needed` fields.

    A digest of `write_checked_json` is compared and left out.

    Raises:
      UserError: it is damaged or cannot be read.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        if missing := [name for name in needed if name not in found]:
            raise ValueError(f"it has no {missing[0]!r}")
        if _DIGEST in found and found.pop(_DIGEST) != _digest(found):
            raise ValueError("it does not match its SHA-256")
        return found
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}); restore or remove it"
        ) from error
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be read: {error.strerror}") from error


def read_lines(path: epath.Path) -> list[dict]:
    """Reads the records of a `.jsonl` file; each has an int `step` and a str `split`.

    Lines that are damaged are left out, with a warning; a last line without its end is
    not damaged: whoever wrote it was killed.
    """
    records: list[dict] = []
    if not path.exists():
        return records
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
            if not isinstance(record["step"], int) or not isinstance(
                record["split"], str
            ):
                raise ValueError("no record")
            records.append(record)
        except (ValueError, KeyError, TypeError):
            logging.warning("%s: line %d is damaged; left out", path, number)
    return records
