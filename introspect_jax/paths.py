"""Paths as users write them: with `~`, relative, or in object stores."""

import os

from etils import epath

from introspect_jax.errors import UserError

# Orbax looks files up by patterns, in which these stand for other characters.
_PATTERN = "*?[]\\"


def absolute(path: str | os.PathLike) -> epath.Path:
    """Returns the absolute path with `~` expanded; URLs such as `gs://` are
    unchanged."""
    text = os.fspath(path)
    if "://" in text:
        return epath.Path(text)
    return epath.Path(os.path.abspath(os.path.expanduser(text)))


def check_writable_name(path: epath.Path, flag: str) -> None:
    """Raises a UserError if checkpoints in this folder could not be read again.

    Args:
      path: Absolute.
      flag: What sets it, for the message.
    """
    text = os.fspath(path)
    bad = sorted({c for c in text if c in _PATTERN})
    if not bad:
        try:
            text.encode()
            return
        except UnicodeEncodeError:
            bad = ["bytes that are not UTF-8"]
    raise UserError(
        f"{flag} {text!r} has {' '.join(bad)}, with which checkpoints cannot be read "
        "again; choose a path without"
    )
