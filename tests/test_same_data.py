"""A run knows its data, wherever they lie."""

import json
import os
import shutil

import numpy as np
import pytest
from conftest import Interrupted, interrupt_at
from PIL import Image
from tiny import TINY

from introspect_jax import restore, teachers
from introspect_jax import run as whole_run
from introspect_jax.config import default_config, lock
from introspect_jax.errors import UserError
from introspect_jax.train import files
from introspect_jax.train.checkpoint import Checkpoints

CLASSES = ("ant", "bee", "cat")
FEW = 12


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(whole_run.figures, "draw_all", lambda *arguments: None)


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """`data/<class>/<n>.png` and `run`, a finished run on them."""
    root = tmp_path_factory.mktemp("home")
    generator = np.random.RandomState(0)
    for name in CLASSES:
        (root / "data" / name).mkdir(parents=True)
        for i in range(FEW):
            pixels = generator.randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "data" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whole_run.figures, "draw_all", lambda *arguments: None)
        whole_run.run("folder", config_of(root), str(root / "run"))
    return root


@pytest.fixture
def moved(home, tmp_path):
    """A copy of both elsewhere."""
    shutil.copytree(home, tmp_path / "moved")
    return tmp_path / "moved"


def config_of(root, **changes):
    config = default_config()
    config.model.name = TINY
    config.data.name = "folder"
    config.data.data_dir = str(root / "data")
    config.data.load_size = 8
    config.batch_size, config.eval_batch_size = 8, 16
    config.total_steps, config.eval_steps, config.checkpoint_steps = 4, 2, 2
    config.update_from_flattened_dict(changes)
    return lock(config)


def run(root, **changes):
    return whole_run.run("folder", config_of(root, **changes), str(root / "run"))


def contents(folder):
    """Every file, but for when its writer was there."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".writer"
    }


def add_class(data):
    shutil.copytree(data / "cat", data / "dog")


def rename_class(data):
    (data / "cat").rename(data / "hound")


def remove_image(data):
    (data / "bee" / "3.png").unlink()


def replace_image(data):
    """Of the same size: the bytes of so few files are read."""
    shutil.copy(data / "bee" / "4.png", data / "bee" / "3.png")


def swap_names(data):
    (data / "bee" / "3.png").rename(data / "bee" / "x.png")


CHANGES = [
    (add_class, "4 classes, not 3; new: 'dog'"),
    (rename_class, "new: 'hound'; gone: 'cat'"),
    (remove_image, "class 'bee' has 11 examples, not 12"),
    (replace_image, "class 'bee' has other examples"),
    (swap_names, "class 'bee' has other examples"),
]


@pytest.mark.parametrize(("change", "says"), CHANGES)
def test_other_data_are_refused_and_nothing_changes(moved, change, says):
    change(moved / "data")
    before = contents(moved)
    config = config_of(moved)
    with pytest.raises(UserError, match=f"not those that the run .* {says}"):
        run(moved)  # finished
    loaded = restore.load(str(moved / "run"), data_dir=str(moved / "data"))
    assert loaded.class_names == CLASSES  # the network is intact
    with pytest.raises(UserError, match=says):
        _ = loaded.dataset
    (moved / "run" / "summary.json").unlink()
    with pytest.raises(UserError, match=says):
        run(moved)  # continued
    after = contents(moved)
    assert after == {n: b for n, b in before.items() if n != "run/summary.json"}
    assert config.data.data_dir == str(moved / "data")


def test_moved_data_and_run_continue_explain_and_teach(home, moved, monkeypatch):
    wanted = json.loads((home / "run" / "summary.json").read_text())
    assert run(moved) == wanted  # shown
    shutil.rmtree(moved / "run")
    # Compiled as the tests of this file are.
    wanted = whole_run.run("folder", config_of(moved), str(moved / "whole"))
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            run(moved, log_steps=1)
    moved.rename(moved.parent / "again")
    moved = moved.parent / "again"
    assert run(moved, log_steps=1)["state_sha256"] == wanted["state_sha256"]
    stored = json.loads((moved / "run" / "config.json").read_text())
    assert stored["data"]["data_dir"] == str(moved / "data")
    assert len(restore.load(str(moved / "run")).dataset.test) == 8
    # The folder of a teacher is no part of its student either.
    student = {"method.name": "kd", "seed": 1}
    config = config_of(moved, **student, **{"method.teacher": str(moved / "run")})
    found = whole_run.run("folder", config, str(moved / "student"))
    (moved / "run").rename(moved / "teacher")
    config = config_of(moved, **student, **{"method.teacher": str(moved / "teacher")})
    assert whole_run.run("folder", config, str(moved / "student")) == found


def test_a_finished_run_whose_data_are_gone_is_shown(moved, monkeypatch):
    wanted = json.loads((moved / "run" / "summary.json").read_text())
    shutil.rmtree(moved / "data")
    before = contents(moved)
    assert run(moved) == wanted
    assert contents(moved) == before
    loaded = restore.load(str(moved / "run"), data_dir=str(moved / "data"))
    with pytest.raises(UserError, match=r"cannot be read: .*no folder .*--data_dir"):
        _ = loaded.dataset


def test_the_default_folder_goes_by_the_data(moved, monkeypatch):
    monkeypatch.chdir(moved)
    config = config_of(moved)
    found = whole_run.run("folder", config)
    (first,) = os.listdir("runs")
    (moved / "data").rename(moved / "elsewhere")
    config.data.data_dir = str(moved / "elsewhere")
    assert whole_run.run("folder", config) == found
    assert os.listdir("runs") == [first]
    remove_image(moved / "elsewhere")
    assert whole_run.run("folder", config)["data_sha256"] != found["data_sha256"]
    assert len(os.listdir("runs")) == 2
    # Without its data a run has no name: it is known by where they were.
    shutil.rmtree(moved / "elsewhere")
    assert whole_run.run("folder", config)["data_sha256"] != found["data_sha256"]
    config.data.data_dir = str(moved / "typo")
    with pytest.raises(UserError, match="no folder"):
        whole_run.run("folder", config)
    config.data.data_dir = str(moved / "data")
    assert whole_run.run("folder", config) == found


def test_another_teacher_is_never_answered_by_a_finished_student(moved, monkeypatch):
    monkeypatch.chdir(moved)
    config = config_of(moved, **{"method.name": "kd", "seed": 1})
    config.method.teacher = str(moved / "run")
    found = whole_run.run("folder", config)
    for path, says in (("typo", "is not the work folder"), ("half", "is not finished")):
        config.method.teacher = str(moved / path)
        if path == "half":
            shutil.copytree(moved / "run", moved / "half")
            (moved / "half" / "summary.json").unlink()
        with pytest.raises(UserError, match=says):
            whole_run.run("folder", config)
    config.method.teacher = str(moved / "run")
    shutil.rmtree(moved / "run")
    assert whole_run.run("folder", config) == found


def test_a_checkpoint_that_cannot_be_read_is_not_damaged(moved, monkeypatch):
    (moved / "run" / "summary.json").unlink()
    before = contents(moved)

    def failing(*arguments):
        raise ValueError('PERMISSION_DENIED: Error opening "cast" driver')

    monkeypatch.setattr(Checkpoints, "_restore", failing)
    with pytest.raises(UserError, match=r"cannot be read .*nothing was changed"):
        run(moved)
    after = contents(moved)
    assert {n for n in after if after[n] != before[n]} <= {"run/config.json"}


def test_a_run_without_digests_is_explained(moved):
    """Of versions that did not keep them, as far as they can be compared."""
    stored = moved / "run" / "data.json"
    facts = files.read_json(stored)
    del facts["parts"]
    files.write_json(stored, facts)
    data_dir = str(moved / "data")
    assert restore.load(str(moved / "run"), data_dir=data_dir).dataset
    remove_image(moved / "data")
    with pytest.raises(UserError, match=r"examples is .*'test': 7"):
        _ = restore.load(str(moved / "run"), data_dir=data_dir).dataset
    rename_class(moved / "data")
    with pytest.raises(UserError, match="new: 'hound'"):
        _ = restore.load(str(moved / "run"), data_dir=data_dir).dataset
    stored.unlink()
    loaded = restore.load(str(moved / "run"), data_dir=data_dir)
    assert loaded.class_names == ("ant", "bee", "hound")


def test_a_run_of_a_version_with_other_fields(moved):
    stored = moved / "run" / "config.json"
    config = json.loads(stored.read_text())
    introspective = config["method"]["introspective"]
    introspective["method"] = introspective.pop("explanation")
    config["model"]["norm"] = "batch"
    stored.write_text(json.dumps(config))
    before = contents(moved)
    with pytest.raises(
        UserError,
        match=r"cannot be used by this version: it has the fields of another one, "
        r"method\.introspective\.method, model\.norm; use the version",
    ):
        restore.load(str(moved / "run"))
    with pytest.raises(UserError, match="holds a run of another config"):
        run(moved)
    assert contents(moved) == before


def test_a_flipped_bit_of_what_is_known_of_the_data(moved):
    stored = moved / "run" / "data.json"
    stored.write_text(stored.read_text().replace('"cat"', '"cau"'))
    with pytest.raises(UserError, match=r"data\.json' is damaged \(it does not match"):
        restore.load(str(moved / "run"))
    assert (moved / "run" / "checkpoints" / "4").exists()


@pytest.mark.parametrize("parts", [3, {"a": 3}, {"a": {"size": 1}}, {"a": {}}])
def test_parts_that_are_none(moved, parts):
    """In a file that somebody else wrote."""
    stored = moved / "run" / "data.json"
    files.write_json(stored, files.read_json(stored) | {"parts": parts})
    loaded = restore.load(str(moved / "run"), data_dir=str(moved / "data"))
    with pytest.raises(UserError, match=r"data\.json is damaged"):
        _ = loaded.dataset


def test_another_network_is_not_a_damaged_checkpoint(moved, monkeypatch):
    """The code of one's own network has changed, and the config has not."""
    (moved / "run" / "summary.json").unlink()
    (moved / "run" / "config.json").write_text(
        (moved / "run" / "config.json").read_text().replace(TINY, "tiny:build_wider")
    )
    before = contents(moved)
    config = config_of(moved, **{"model.name": "tiny:build_wider"})
    with pytest.raises(
        UserError,
        match=r"another network or optimizer: params/\S+ is float32\[3,3,3,4\] in it, "
        r"float32\[3,3,3,6\] here",
    ):
        whole_run.run("folder", config, str(moved / "run"))
    with pytest.raises(UserError, match="another network"):
        restore.load(str(moved / "run"))
    after = contents(moved)
    assert {n for n in after if after[n] != before[n]} <= {
        "run/config.json",
        "run/data.json",
    }


def test_a_damaged_checkpoint_is_left_where_it_is_by_readers(moved, caplog):
    data = moved / "run" / "checkpoints" / "4" / "state"
    for path in data.rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[::-1])
    before = contents(moved)
    with caplog.at_level("WARNING", logger="absl"):
        assert restore.load(str(moved / "run")).step == 2
    assert "of step 4 is damaged" in caplog.text
    assert "it was left as it is" in caplog.text
    assert contents(moved) == before


def test_readers_write_nothing(home):
    """Of a folder that nobody may write to."""
    before = contents(home)
    config = config_of(home, **{"method.name": "kd", "seed": 1})
    config.method.teacher = str(home / "run")
    loaded = restore.load(str(home / "run"))
    assert len(loaded.dataset.train)
    assert teachers.digest(config)["teacher"] == loaded.state_sha256
    assert contents(home) == before
