"""Errors that are the user's to fix: one line, no stack trace."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Says what was wrong, what was got and what to do. Caught by `launch/`."""


class Stopped(Exception):
    """Training was asked to stop and has; what it did is saved."""


def nearest(name: str, options: Iterable[str]) -> str:
    """' (did you mean X?)' for the option most like `name`, or nothing."""
    close = difflib.get_close_matches(str(name), list(options), n=1, cutoff=0.5)
    return f" (did you mean {close[0]!r}?)" if close else ""


def unknown(kind: str, name: str, options: Iterable[str]) -> str:
    """The message for a name that does not exist, listing those that do."""
    options = list(options)
    return (
        f"unknown {kind} {name!r}{nearest(name, options)}; "
        f"there are: {', '.join(options)}"
    )
