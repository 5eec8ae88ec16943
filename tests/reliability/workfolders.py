"""What the programs of this folder share: a short real run, and how they report."""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
STEPS, EVAL_STEPS = 40, 5
# The clock's, in the records of a run.
TIMES = ("images_per_second", "step_seconds")


def command(folder: pathlib.Path, *more: str) -> list[str]:
    """The command of a run of 40 steps that evaluates and saves at every fifth."""
    return [
        sys.executable,
        "launch/main.py",
        "--config=configs/digits.py",
        "--config.model.name=resnet8",
        "--config.batch_size=64",
        f"--config.total_steps={STEPS}",
        "--config.log_steps=2",
        f"--config.eval_steps={EVAL_STEPS}",
        f"--config.checkpoint_steps={EVAL_STEPS}",
        f"--workdir={folder}",
        *more,
    ]


def environment(cache: pathlib.Path) -> dict[str, str]:
    """On the CPU, with compiled programs kept in a folder."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def finish(
    words: Sequence[str], cache: pathlib.Path
) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end."""
    return subprocess.run(
        words, cwd=ROOT, env=environment(cache), capture_output=True, text=True
    )


def end_state(folder: pathlib.Path) -> dict:
    """All that two runs of the same config must agree in, bit for bit."""
    summary = json.loads((folder / "summary.json").read_text())
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    return {
        "state_sha256": summary["state_sha256"],
        "test": summary["test"],
        "validation": summary["validation"],
        "steps": summary["steps"],
        "records": [
            {k: v for k, v in record.items() if k not in TIMES} for record in records
        ],
        "files": sorted(path.name for path in folder.iterdir()),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").iterdir()),
    }


def in_a_line(process: subprocess.CompletedProcess[str]) -> str | None:
    """The one line with which a command gave up, or None if it did otherwise."""
    lines = [x for x in process.stderr.splitlines() if x.startswith("error: ")]
    if process.returncode != 1 or len(lines) != 1 or "Traceback" in process.stderr:
        return None
    return lines[0]


def arguments(description: str | None) -> argparse.Namespace:
    """`--json=FILE` of every program here."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=pathlib.Path, help="write the results there")
    return parser.parse_args()


def report(rows: list[dict], path: pathlib.Path | None, **about) -> None:
    """Prints what failed and the count, writes JSON, and exits 1 if something failed.

    Args:
      rows: of every case, with `ok`.
      path: of the JSON file, or None.
      about: what else is worth keeping.
    """
    import jax

    good = sum(row["ok"] for row in rows)
    for row in rows:
        if not row["ok"]:
            print(f"FAILED {json.dumps(row)}")
    print(f"{good} of {len(rows)}")
    if path:
        table = {
            "passed": good,
            "of": len(rows),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "python": platform.python_version(),
            "jax": jax.__version__,
            "cpus": os.cpu_count(),
            **about,
            # Thousands of cases that went well are told of by `about`.
            "cases": rows if len(rows) <= 100 else [r for r in rows if not r["ok"]],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(table, indent=1)
        # Names of temporary folders say nothing.
        scratch = re.escape(tempfile.gettempdir()) + r"/\w+"
        path.write_text(re.sub(scratch, "SCRATCH", text) + "\n")
    sys.exit(0 if good == len(rows) else 1)
