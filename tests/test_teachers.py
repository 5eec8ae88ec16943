"""Runs that learn from other runs."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from conftest import Interrupted, interrupt_at
from etils import epath
from tiny import TINY

from introspect_jax import data, restore, teachers
from introspect_jax import run as whole_run
from introspect_jax.config import default_config, validate
from introspect_jax.data.identity import Part
from introspect_jax.errors import UserError

ANOTHER = "tiny:build_another"


@pytest.fixture(autouse=True)
def without_pictures(monkeypatch):
    monkeypatch.setattr(whole_run.figures, "draw_all", lambda *arguments: None)


@pytest.fixture
def student(digits_config):
    """Four steps of distillation."""
    digits_config.method.name = "kd"
    digits_config.total_steps = 4
    return digits_config


def teach(config, **changes):
    copy = config.copy_and_resolve_references()
    copy.update_from_flattened_dict(changes)
    return copy.lock()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("students")


@pytest.fixture
def trained(shared_folder, student):
    """A student's folder; its teacher was trained beside it."""
    folder = shared_folder / "student"
    if not (folder / "summary.json").exists():
        whole_run.run("digits", teach(student), str(folder))
    return folder


def teacher_of(folder):
    return epath.Path(json.loads((folder / "teacher.json").read_text())["workdir"])


def test_it_is_trained_first_and_known_to_the_student(trained, student):
    teacher = teacher_of(trained)
    assert teacher.parent == trained.parent
    config = json.loads((teacher / "config.json").read_text())
    assert config["method"]["name"] == "standard"
    assert config["seed"] == 1000
    theirs = json.loads((teacher / "summary.json").read_text())
    found = json.loads((trained / "summary.json").read_text())["teacher"]
    assert found["state_sha256"] == theirs["state_sha256"]
    assert found["test"] == theirs["test"]
    assert found["model"] == TINY
    # The teacher is a run like any other: its own command finds it finished.
    assert whole_run.run("digits", teachers.teacher_config(student), str(teacher))


def test_it_may_know_more_than_its_student(student):
    config = teach(
        student,
        **{
            "data.train_examples": 200,
            "method.teacher_examples": -1,
            "method.teacher_steps": 9,
            "evaluate_test": False,
        },
    )
    taught = teachers.teacher_config(config)
    assert taught.data.train_examples == 0
    assert taught.total_steps == 9
    assert taught.evaluate_test
    same = teachers.teacher_config(teach(student, **{"data.train_examples": 200}))
    assert same.data.train_examples == 200
    assert same.total_steps == student.total_steps


def test_all_students_of_a_config_share_it(trained, student, capsys):
    before = (teacher_of(trained) / "summary.json").stat()
    for name, seed in (("kd", 1), ("tf_kd_self", 0)):
        folder = trained.parent / f"{name}-{seed}"
        config = teach(student, **{"method.name": name, "seed": seed})
        whole_run.run("digits", config, str(folder))
        assert teacher_of(folder) == teacher_of(trained)
    after = (teacher_of(trained) / "summary.json").stat()
    assert after.mtime == before.mtime


def test_the_path_of_a_run_gives_the_same(trained, student, tmp_path):
    """The steps of the student are those with the same teacher, given by name."""
    path = str(teacher_of(trained))
    config = teach(student, **{"method.teacher": path})
    found = whole_run.run("digits", config, str(tmp_path / "run"))
    wanted = json.loads((trained / "summary.json").read_text())
    assert found["state_sha256"] == wanted["state_sha256"]


def test_a_continued_student_is_the_same_bit_for_bit(
    trained, student, tmp_path, monkeypatch
):
    config = teach(student, **{"method.teacher": str(teacher_of(trained))})
    with monkeypatch.context() as patch:
        interrupt_at(patch, 4)
        with pytest.raises(Interrupted):
            whole_run.run("digits", config, str(tmp_path))
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"2"}
    found = whole_run.run("digits", config, str(tmp_path))
    wanted = json.loads((trained / "summary.json").read_text())
    assert found["state_sha256"] == wanted["state_sha256"]


def test_another_teacher_in_its_place_is_noticed(trained, student, tmp_path):
    path = tmp_path / "teacher"
    shutil.copytree(teacher_of(trained), path)
    config = teach(student, **{"method.teacher": str(path)})
    whole_run.run("digits", config, str(tmp_path / "run"))
    (tmp_path / "run" / "summary.json").unlink()
    shutil.rmtree(path)
    whole_run.run("digits", teach(teachers.teacher_config(student), seed=5), str(path))
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(UserError, match="not the one that this run began with"):
        whole_run.run("digits", config, str(tmp_path / "run"))


def test_a_student_can_be_looked_at_without_its_teacher(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "alone")
    run = restore.load(str(tmp_path / "alone"))
    assert run.step == 4


def test_mean_probabilities_of_a_teacher(trained, student):
    run = restore.load(str(teacher_of(trained)))
    found = teachers.mean_probs(run, 3.0)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=1e-6)
    train = data.load(student.data).train
    images, labels = train.take(np.arange(len(train)))
    logits = run.model.apply(run.variables, run.preprocess(images))
    probs = jax.nn.softmax(logits / 3.0)
    for label in (0, 7):
        np.testing.assert_allclose(
            found[label], probs[labels == label].mean(0), rtol=1e-4
        )


def find(config, path):
    return teachers.find("digits", config, epath.Path(path), data.load(config.data))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"data.mean": (0.1,)}, r"data.mean is \(0.5,\) there, \(0.1,\) here"),
        (
            {"method.name": "tf_kd_self", "model.name": ANOTHER},
            f"model.name={TINY}, this run {ANOTHER}: use --config.method.name=kd",
        ),
        ({"seed": 1000}, "has the seed of this run, 1000"),
    ],
)
def test_a_teacher_that_does_not_fit(trained, student, tmp_path, changes, says):
    path = str(teacher_of(trained))
    config = teach(student, **{"method.teacher": path} | changes)
    with pytest.raises(UserError, match=says):
        find(config, tmp_path)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (tuple("0123456789ab"), "here: 12 classes, not 10; new: 'a', 'b'"),
        (tuple("012345678x"), "here: new: 'x'; gone: '9'"),
        (tuple("1023456789"), "the classes are in another order"),
    ],
)
def test_a_teacher_of_other_classes(trained, student, tmp_path, names, says):
    """In a folder of images there may be others tomorrow."""
    config = teach(student, **{"method.teacher": str(teacher_of(trained))})
    dataset = dataclasses.replace(data.load(config.data), class_names=names)
    with pytest.raises(UserError, match=says):
        teachers.find("digits", config, epath.Path(tmp_path), dataset)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, ""),
        ({"data.train_examples": 100}, ""),
        # The first tenth is the same; of the second, all was trained on.
        (
            {"data.validation_fraction": 0.2},
            "144 of 288 validation and 0 of 360 test",
        ),
    ],
)
def test_a_teacher_that_saw_what_its_student_is_tested_on(
    trained, student, tmp_path, caplog, changes, says
):
    path = str(teacher_of(trained))
    config = teach(student, **{"method.teacher": path} | changes)
    dataset = data.load(config.data)
    taught = data.load(student.data)
    assert says == "" or str(len(dataset.validation)) in says
    both = np.isin(dataset.validation.known_as(), taught.train.known_as()).sum()
    assert str(both) in says or both == 0
    with caplog.at_level("WARNING", logger="absl"):
        find(config, tmp_path)
    assert caplog.text.count("was trained on") == (says != "")
    assert says in caplog.text


def test_a_teacher_of_other_examples(trained, student, tmp_path, caplog):
    """Its classes are the same, so it may teach."""
    config = teach(student, **{"method.teacher": str(teacher_of(trained))})
    dataset = data.load(config.data)
    parts = {name: Part(9, "x") for name in dataset.parts}
    with caplog.at_level("WARNING", logger="absl"):
        teachers.find(
            "digits",
            config,
            epath.Path(tmp_path),
            dataclasses.replace(dataset, parts=parts),
        )
    assert "has 9 examples, not 1,797): whether it was trained on" in caplog.text


def test_a_teacher_that_is_not_there_or_not_finished(trained, student, tmp_path):
    config = teach(student, **{"method.teacher": str(tmp_path / "nowhere")})
    with pytest.raises(UserError, match="not the work folder of a run"):
        find(config, tmp_path / "run")
    shutil.copytree(teacher_of(trained), tmp_path / "teacher")
    (tmp_path / "teacher" / "summary.json").unlink()
    config = teach(student, **{"method.teacher": str(tmp_path / "teacher")})
    with pytest.raises(UserError, match="is not finished; run its own command"):
        find(config, tmp_path / "run")
    with pytest.raises(UserError, match="is the work folder of this run"):
        find(teach(student, **{"method.teacher": str(trained)}), trained)


def test_what_does_not_fit_is_said_before_a_teacher_is_trained(student, tmp_path):
    config = teach(student, eval_batch_size=2**30)
    with pytest.raises(UserError, match="more than the memory"):
        whole_run.run("digits", config, str(tmp_path / "student"))
    assert [path.name for path in tmp_path.iterdir()] == ["student"]


@pytest.mark.parametrize("damaged", ["newest", "all", "gone", "summary", "config"])
def test_a_damaged_teacher(trained, student, tmp_path, damaged):
    path = tmp_path / "teacher"
    shutil.copytree(teacher_of(trained), path)
    steps = sorted((path / "checkpoints").iterdir(), key=lambda p: int(p.name))
    if damaged == "gone":
        shutil.rmtree(path / "checkpoints")
    elif damaged in ("summary", "config"):
        (path / f"{damaged}.json").write_text("{")
    else:
        for step in steps[-1:] if damaged == "newest" else steps:
            for file in step.rglob("*"):
                if file.is_file():
                    file.write_bytes(b"")
    config = teach(student, **{"method.teacher": str(path)})
    says = (
        "cannot be used"
        if damaged == "config"
        else "remove its summary.json and run its own command"
    )
    with pytest.raises(UserError, match=says) as caught:
        whole_run.run("digits", config, str(tmp_path / "run"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run" / "checkpoints" / "2").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"method.name": "standard", "method.teacher": "x"},
            "those that do: attention_transfer, ban, dkd, kd, tf_kd",
        ),
        ({"method.name": "kd", "method.teacher_seed": 0}, "are both 0"),
        ({"method.name": "kd", "method.teacher_seed": -1}, "teacher_seed must lie in"),
        ({"method.name": "kd", "method.teacher_examples": -2}, "must be -1"),
        ({"method.name": "kd", "method.teacher_steps": -1}, "teacher_steps must be 0"),
        (
            {"method.name": "tf_kd_self", "method.teacher_model": "resnet56"},
            "learns from a network of its own kind",
        ),
    ],
)
def test_fields_that_cannot_be(changes, says):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=says):
        validate(config)
