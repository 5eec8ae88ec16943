"""Files that are there whole or not at all, on any file system."""

import json
from typing import Any

from etils import epath

from introspect_jax.errors import UserError


def write_text(path: epath.Path, text: str) -> None:
    """Writes the whole file or nothing."""
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_text(text)
    temporary.replace(path)


def write_json(path: epath.Path, value: Any) -> None:
    """Writes the whole file or nothing."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def read_json(path: epath.Path, *needed: str) -> dict[str, Any]:
    """The object that is in the file, with all that is needed of it.

    Raises:
      UserError: it is damaged.
    """
    try:
        found = json.loads(path.read_text())
        if not isinstance(found, dict):
            raise ValueError("it is not an object")
        if missing := [name for name in needed if name not in found]:
            raise ValueError(f"it has no {missing[0]!r}")
        return found
    except ValueError as error:
        raise UserError(
            f"{str(path)!r} is damaged ({error}); restore or remove it"
        ) from error


def read_lines(path: epath.Path) -> list[dict]:
    """The records of a `.jsonl` file; what is damaged ends it."""
    records = []
    if path.exists():
        text = path.read_bytes().decode(errors="replace")
        for line in text.splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                break
            if not isinstance(record, dict) or not {"step", "split"} <= record.keys():
                break
            records.append(record)
    return records
