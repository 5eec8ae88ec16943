"""The quick part of the programs about checkpoints; `python tests/reliability/NAME.py`
runs the whole."""

import json
import subprocess
import sys

import damage
import damaged_files
import nonfinite
import pytest
from conftest import ROOT
from etils import epath

from introspect_jax import run as whole_run


def wrong(rows):
    return [row for row in rows if not row["ok"]]


def test_damaged_checkpoints(tmp_path):
    rows = damage.check_checkpoints(tmp_path, flips=1, every=7)
    assert len(rows) > 30
    assert not wrong(rows)
    outcomes = {(row["checkpoint"], row["outcome"]) for row in rows}
    assert outcomes >= {("newest", "step 2"), ("best", "step 3"), ("only", "error")}


def test_the_best_checkpoint_with_a_damaged_meta(tmp_path, caplog):
    """It is told of, though its score is not known any more."""
    folder = damage.written(tmp_path)
    path = folder / "checkpoints" / str(damage.BEST) / "meta" / "metadata"
    path.write_bytes(bytes(path.stat().st_size))
    with caplog.at_level("WARNING", logger="absl"):
        assert damage.restored(folder, "best") == f"step {damage.STEPS[-1]}"
    assert f"checkpoint of step {damage.BEST} is damaged" in caplog.text


def test_a_deletion_that_was_interrupted(tmp_path):
    """What is left of it is no checkpoint; nothing is left of one that was not."""
    folder = damage.written(tmp_path)
    root = folder / "checkpoints"
    (root / "deleted" / "1").mkdir(parents=True)
    (root / "1" / "meta").rename(root / "deleted" / "1" / "meta")
    (root / "1").rename(root / "deleted" / "2")
    assert damage.restored(folder, "best") == f"step {damage.BEST}"
    assert sorted(path.name for path in root.iterdir()) == ["2", "3"]
    assert not (folder / "damaged").exists()


def test_what_is_deleted_is_moved_first(tmp_path, monkeypatch):
    monkeypatch.setattr(damage.Checkpoints, "_delete", lambda self: None)
    checkpoints = damage.Checkpoints(epath.Path(tmp_path), 1)
    for step in damage.STEPS:  # the second is the best
        checkpoints.save(damage.state_at(step), damage.meta_of(step))
    checkpoints.wait()
    deleted = tmp_path / "checkpoints" / "deleted"
    assert [path.name for path in deleted.iterdir()] == ["1"]


def test_a_run_that_is_killed_while_it_draws_is_not_finished(tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    def draw(*arguments):
        raise Killed

    monkeypatch.setattr(whole_run.figures, "draw_all", draw)
    with nonfinite.small_runs(), pytest.raises(Killed):
        whole_run.run("digits", nonfinite.config_of(), str(tmp_path))
    assert not (tmp_path / "summary.json").exists()


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
    assert sum(row["outcome"].startswith("error") for row in cases) >= 9
