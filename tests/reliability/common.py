"""What the reliability scripts share: `--json`, and the exit status."""

import argparse
import contextlib
import datetime
import json
import pathlib
import platform
import signal
from collections.abc import Iterator
from typing import Any


class TooLong(BaseException):
    """The time is over; no `except Exception` takes it for its own error."""


@contextlib.contextmanager
def limit(seconds: int) -> Iterator[None]:
    """Raises `TooLong` in what takes longer."""

    def end(number, frame):
        raise TooLong(f"no answer within {seconds} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def parse_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments, `--json` among them."""
    parser.add_argument("--json", help="file for the result")
    return parser.parse_args()


def write_result(path: str | None, result: dict[str, Any]) -> int:
    """Writes the result, with date and versions, and says how it ended.

    Args:
      path: of the file, or None.
      result: JSON-able; its `failures` are counted.

    Returns:
      The exit status: 1 with failures, else 0.
    """
    import jax
    import PIL

    about = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "pillow": PIL.__version__,
    }
    if path:
        text = json.dumps(about | result, indent=1, ensure_ascii=True) + "\n"
        pathlib.Path(path).write_text(text)
    print(f"{len(result['failures'])} failures")
    return int(bool(result["failures"]))
