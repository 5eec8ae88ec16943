"""The quick part of the programs of this folder; `python tests/reliability/NAME.py`
runs the whole."""

import json
import subprocess
import sys

import damage
import damaged_files
import nonfinite
import pytest
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("tiny_model")


def wrong(rows):
    return [row for row in rows if not row["ok"]]


def test_damaged_checkpoints(tmp_path):
    rows = damage.check_checkpoints(tmp_path, flips=1, every=7)
    assert len(rows) > 30
    assert not wrong(rows)
    outcomes = {(row["checkpoint"], row["outcome"]) for row in rows}
    assert outcomes >= {("newest", "step 2"), ("best", "step 3"), ("only", "error")}


def test_what_does_not_belong_among_checkpoints(tmp_path):
    assert not wrong(damage.check_strays(tmp_path))


def test_damaged_files_of_a_work_folder(tmp_path):
    rows = damaged_files.check_files(tmp_path, flips=20)
    assert not wrong(rows)
    assert {row["outcome"] for row in rows} >= {"error", "warning"}


@pytest.mark.parametrize(("at", "value"), [(7, "NaN"), (nonfinite.STEPS, "-inf")])
def test_gradients_that_are_not_finite(tmp_path, at, value):
    with nonfinite.small_runs():
        row = nonfinite.check(
            tmp_path, nonfinite.config_of(), at, value, leaves="first"
        )
    assert row["ok"], row


def test_full_disk(tmp_path):
    found = tmp_path / "found.json"
    words = [sys.executable, "tests/reliability/disk_full.py", "--quick"]
    process = subprocess.run(
        [*words, f"--json={found}"], cwd=ROOT, capture_output=True, text=True
    )
    if "nothing was tested" in process.stderr:
        pytest.skip(process.stderr.strip())
    assert process.returncode == 0, process.stdout
    assert "Traceback" not in process.stderr
    cases = json.loads(found.read_text())["cases"]
    assert sum(row["outcome"].startswith("error") for row in cases) >= 8
