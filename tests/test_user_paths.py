import os

import pytest
from etils import epath

from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute, check_writable_name
from introspect_jax.workdir import open_workdir


def test_absolute(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.chdir(tmp_path)
    for path, wanted in (
        ("~/x", "/home/me/x"),
        ("x/../y", f"{tmp_path}/y"),
        ("/a/./b", "/a/b"),
        ("a~b", f"{tmp_path}/a~b"),
    ):
        assert os.fspath(absolute(path)) == wanted
    assert str(absolute("gs://bucket/x")) == "gs://bucket/x"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("lr=[0.1]", r"has \[ \]"),
        ("a\\b", r"has \\"),
        ("what?", r"has \?"),
        ("x*", r"has \*"),
        (os.fsdecode(b"\xff"), "has bytes that are not UTF-8"),
    ],
)
def test_characters_that_checkpoints_cannot_have(tmp_path, name, says):
    path = str(tmp_path / "runs" / name / "x")
    with pytest.raises(UserError, match=says):
        open_workdir(path, default_config())
    assert not list(tmp_path.iterdir())


def test_what_checkpoints_can_have():
    check_writable_name(epath.Path("/runs/lr=0.1,b{2}~#%20 é語\n;'\"$&()!@+^"), "x")
