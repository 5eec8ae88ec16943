"""Whole runs: files, continuing, damage."""

import dataclasses
import json
import logging
import shutil

import jax
import numpy as np
import pytest
from conftest import Interrupted, interrupt_at
from etils import epath

from introspect_jax import data
from introspect_jax import run as whole_run
from introspect_jax.data.sources import Source
from introspect_jax.errors import Stopped, UserError
from introspect_jax.train import trainer as trainers
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.state import state_sha256


@pytest.fixture(autouse=True)
def one_device(monkeypatch):
    build = trainers.build

    def on_one(config, dataset, devices=None, **options):
        return build(config, dataset, jax.devices()[:1], **options)

    monkeypatch.setattr(whole_run, "build", on_one)


def trained(config, path, **options):
    """A run without its pictures, which take longer than its steps."""
    return whole_run.run("digits", config, str(path), pictures=False, **options)


def lines(path):
    """The records, without what depends on the clock."""
    records = [json.loads(line) for line in (path / "metrics.jsonl").open()]
    for record in records:
        record.pop("images_per_second", None)
        record.pop("step_seconds", None)
    return records


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture
def finished(kept, digits_config):
    """One finished run for all tests that only look at it."""
    path = kept / "digits"
    if not (path / "summary.json").exists():
        whole_run.run("digits", digits_config.lock(), str(path))
    return path


def test_work_folder(finished):
    names = {p.name for p in finished.iterdir()}
    assert names == {
        ".writer",  # empty: nobody writes there any more
        "config.json",
        "data.json",
        "metrics.jsonl",
        "settings.json",
        "summary.json",
        "checkpoints",
        "tensorboard",
        "curves.png",
        "explanations.png",
        "class_similarity.png",
    }
    assert list((finished / "tensorboard").iterdir())
    for name in ("curves", "explanations", "class_similarity"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((finished / "summary.json").read_text())
    scores = {"top1", "top5", "nll", "ece", "overconfidence", "ece_floor"}
    scores |= {"ece_floor_95", "temperature", "nll_scaled", "ece_scaled"}
    scores |= {"ece_scaled_floor", "ece_scaled_floor_95"}
    for which in ("last", "best"):
        assert set(summary["test"][which]) == scores
        assert set(summary["validation"][which]) == scores
    assert summary["steps"]["last"] == 12
    assert summary["method"] == "introspective"
    assert summary["seed"] == 0
    assert summary["seconds"] > 0
    assert len(summary["state_sha256"]) == 64
    assert summary["versions"]["jax"] == jax.__version__
    assert summary["device"]["platform"] == "cpu"
    records = lines(finished)
    assert [r["step"] for r in records if r["split"] == "train"] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in records if r["split"] == "validation"] == [4, 8, 12]
    (cost,) = (r for r in records if r["split"] == "cost")
    assert cost["step"] == 0
    assert cost["flops_per_step"] > 1e5
    assert cost["parameters_trained"] == summary["parameters"]
    assert cost["parameters_deployed"] == summary["parameters"]
    assert summary["cost"].items() >= {(k, cost[k]) for k in cost if "_" in k}
    assert summary["cost"]["step_seconds"] > 0
    best = max((r["top1"], r["step"]) for r in records if r["split"] == "validation")
    assert summary["steps"]["best"] == best[1]
    assert summary["validation"]["best"]["top1"] == best[0]


def test_newest_and_best_checkpoints_are_kept(finished):
    steps = {int(p.name) for p in (finished / "checkpoints").iterdir()}
    best = json.loads((finished / "summary.json").read_text())["steps"]["best"]
    assert steps == {10, 12, best}


def test_a_finished_run_is_shown_and_not_touched(finished, digits_config, capsys):
    before = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    summary = trained(digits_config.lock(), finished)
    assert "finished before" in capsys.readouterr().out
    assert summary == json.loads((finished / "summary.json").read_text())
    after = {p: p.stat().st_mtime_ns for p in finished.rglob("*") if p.is_file()}
    assert before == after


@pytest.mark.parametrize("step", [2, 6, 8])
def test_continued_equals_uninterrupted(
    finished, digits_config, tmp_path, monkeypatch, step
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, step)
        with pytest.raises(Interrupted):
            trained(digits_config.lock(), tmp_path)
    assert not (tmp_path / "summary.json").exists()
    summary = trained(digits_config.lock(), tmp_path)
    wanted = json.loads((finished / "summary.json").read_text())
    for name in ("state_sha256", "test", "validation", "steps"):
        assert summary[name] == wanted[name]
    assert lines(tmp_path) == lines(finished)


@pytest.mark.parametrize("step", [5, 8])
def test_stopped_when_asked_and_continued(finished, digits_config, tmp_path, step):
    """Between two checkpoints, and where one is due."""
    asked = iter(range(100))
    with pytest.raises(Stopped, match=f"stopped at step {step} of 12"):
        trained(
            digits_config.lock(), tmp_path, should_stop=lambda now: next(asked) == step
        )
    assert step in {int(p.name) for p in (tmp_path / "checkpoints").iterdir()}
    summary = trained(digits_config.lock(), tmp_path)
    wanted = json.loads((finished / "summary.json").read_text())
    for name in ("state_sha256", "test", "validation", "steps"):
        assert summary[name] == wanted[name]


def test_a_choice_does_not_read_the_test_split(digits_config, tmp_path, monkeypatch):
    load = data.load

    def unreadable(config, **options):
        dataset = load(config, **options)
        numbers = dataset.test.numbers
        return dataclasses.replace(dataset, test=Source(None, numbers, True))

    monkeypatch.setattr(data, "load", unreadable)
    digits_config.total_steps = 2
    digits_config.evaluate_test = False
    summary = trained(digits_config.lock(), tmp_path)
    assert summary["test"] is None
    assert summary["validation"]["last"]["top1"] >= 0
    assert not list(tmp_path.glob("*.png"))


def test_another_config_does_not_touch_the_folder(finished, digits_config):
    digits_config.seed = 1
    digits_config.optimizer.learning_rate = 0.2
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.1 there, 0\.2"):
        trained(digits_config.lock(), finished)


def test_a_mistake_leaves_nothing_that_its_correction_collides_with(
    digits_config, tmp_path
):
    digits_config.batch_size = 5000
    with pytest.raises(UserError, match="1293 training examples"):
        trained(digits_config, tmp_path)
    assert not (tmp_path / "config.json").exists()


def test_a_folder_that_cannot_be_written(digits_config, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        trained(digits_config, tmp_path / "file" / "run")


def test_a_damaged_config_is_named(finished, digits_config, tmp_path):
    (tmp_path / "config.json").write_text('{"seed": ')
    with pytest.raises(UserError, match=r"config\.json.* is damaged"):
        trained(digits_config, tmp_path)


def test_without_validation_the_last_state_is_the_best(digits_config, tmp_path):
    digits_config.data.validation_fraction = 0.0
    digits_config.total_steps = 4
    summary = trained(digits_config.lock(), tmp_path)
    assert summary["validation"] is None
    assert summary["test"]["best"] == summary["test"]["last"]
    assert summary["examples"]["train"] == 1437


def test_a_loss_that_is_not_finite_stops_the_run(digits_config, tmp_path, monkeypatch):
    digits_config.log_steps = 12
    digits_config.optimizer.learning_rate = 0.01
    compiling = trainers.Trainer.compile

    def exploding(self, state, batch):
        step, flops = compiling(self, state, batch)

        def train_step(state, batch):
            at = int(state.step)
            state, metrics = step(state, batch)
            if at + 1 == 7:
                metrics["loss"] = metrics["loss"] * np.inf
            return state, metrics

        return train_step, flops

    monkeypatch.setattr(trainers.Trainer, "compile", exploding)
    with pytest.raises(
        UserError, match=r"loss at step 7 is inf; .* of step 6, is kept"
    ):
        trained(digits_config.lock(), tmp_path)
    assert {int(p.name) for p in (tmp_path / "checkpoints").iterdir()} >= {6}
    monkeypatch.setattr(trainers.Trainer, "compile", compiling)
    assert trained(digits_config.lock(), tmp_path)


def test_parameters_that_overflow_are_not_saved(digits_config, tmp_path):
    """The loss of the step is finite; what the update made of the weights is not."""
    digits_config.optimizer.learning_rate = 1e39
    digits_config.eval_steps = 1
    with pytest.raises(UserError, match=r"at step 1 is .*there is no checkpoint yet"):
        trained(digits_config.lock(), tmp_path)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_a_damaged_summary_is_written_anew(finished, digits_config, tmp_path):
    folder = unfinished(finished, tmp_path / "run")
    (folder / "summary.json").write_text('{"name": ')
    found = trained(digits_config.lock(), folder)
    wanted = json.loads((finished / "summary.json").read_text())
    assert found["state_sha256"] == wanted["state_sha256"]


def test_a_picture_that_fails_costs_no_result(digits_config, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError("no paint")

    monkeypatch.setattr(whole_run.figures, "draw_all", broken)
    digits_config.total_steps = 2
    assert whole_run.run("digits", digits_config.lock(), str(tmp_path))
    assert (tmp_path / "summary.json").exists()


def test_a_disk_that_fails_is_not_a_damaged_checkpoint(
    finished, digits_config, tmp_path, monkeypatch
):
    folder = unfinished(finished, tmp_path / "run")

    def failing(self, step, like):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "_restore", failing)
        with pytest.raises(UserError, match="nothing was changed"):
            trained(digits_config.lock(), folder)
    assert not (folder / "damaged").exists()
    assert trained(digits_config.lock(), folder)


def unfinished(finished, target):
    """The finished run as if it had been stopped after step 12 was saved."""
    shutil.copytree(finished, target)
    (target / "summary.json").unlink()
    return target


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", [damage_flip, damage_truncate, "remove"])
def test_any_damaged_file_is_noticed(finished, digits_config, tmp_path, damage, caplog):
    """Each file of the newest checkpoint in turn: the result is right, or an older
    checkpoint was used and the result is right too."""
    wanted = json.loads((finished / "summary.json").read_text())["state_sha256"]
    newest = finished / "checkpoints" / "12"
    files = sorted(p.relative_to(newest) for p in newest.rglob("*") if p.is_file())
    assert len(files) > 5
    trainer = whole_run.build(digits_config, data.load(digits_config.data))
    like = trainer.abstract_state()
    warned = 0
    for number, name in enumerate(files):
        folder = unfinished(finished, tmp_path / str(number))
        path = folder / "checkpoints" / "12" / name
        if damage == "remove":
            path.unlink()
        elif path.stat().st_size:
            damage(path)
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="absl"):
            checkpoints = Checkpoints(epath.Path(folder), 2)
            state, meta = checkpoints.restore_newest(like)
        checkpoints.close()
        found = state_sha256(state)
        assert found == meta["state_sha256"]
        if int(state.step) == 12:
            assert found == wanted
        else:
            assert int(state.step) == 10
            assert "checkpoint of step 12 is damaged" in caplog.text
            assert (folder / "damaged").exists()
            warned += 1
    assert warned >= 3


def test_a_damaged_newest_checkpoint_costs_nothing_but_time(
    finished, digits_config, tmp_path
):
    folder = unfinished(finished, tmp_path / "run")
    data = [
        p for p in (folder / "checkpoints" / "12" / "state").rglob("d/*") if p.is_file()
    ]
    damage_flip(max(data, key=lambda p: p.stat().st_size))
    summary = trained(digits_config.lock(), folder)
    wanted = json.loads((finished / "summary.json").read_text())
    assert summary["state_sha256"] == wanted["state_sha256"]
    assert summary["test"] == wanted["test"]
    assert lines(folder) == lines(finished)


def test_nothing_but_damage_is_an_error(finished, digits_config, tmp_path):
    folder = unfinished(finished, tmp_path / "run")
    for path in (folder / "checkpoints").rglob("*"):
        if path.is_file() and path.stat().st_size:
            damage_truncate(path)
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged") as caught:
        trained(digits_config.lock(), folder)
    assert "\n" not in str(caught.value)
    assert trained(digits_config.lock(), folder)
