"""What the reliability scripts share: `--json`, and the exit status."""

import argparse
import datetime
import json
import pathlib
import platform
from typing import Any


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
