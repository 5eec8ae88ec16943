"""The page of what similarities know, from a tiny run and a tiny teacher."""

import json
import math
import shutil

import pytest
from etils import epath
from tiny import TINY

from introspect_jax import run as whole_run
from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from studies import agreement as agreements
from studies import forms

SOME = ("gradient, projection", "Grad-CAM, cosine")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run with three checkpoints, and its teacher."""
    folder, config = tmp_path_factory.mktemp("agreement"), default_config()
    config.model.name, config.data.name = TINY, "digits"
    config.batch_size, config.eval_batch_size = 32, 64
    config.total_steps, config.log_steps = 6, 2
    config.checkpoint_steps = config.eval_steps = 2
    config.checkpoints_kept = 3
    config.method.name = "standard"
    for seed, name in ((0, "run"), (1, "teacher")):
        config.seed = seed
        whole_run.run("digits", config, str(folder / name), pictures=False)
    return folder


@pytest.fixture
def pair(trained, tmp_path, monkeypatch):
    """A copy of both; the page is of a few forms."""
    monkeypatch.setattr(agreements, "FORMS", {name: forms.FORMS[name] for name in SOME})
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_page(pair, monkeypatch):
    monkeypatch.chdir(pair)
    output = epath.Path("out")
    rows = agreements.agreement("run", "teacher", output, num_images=100)
    assert sorted({row["step"] for row in rows}) == [2, 4, 6]
    names = {row["form"] for row in rows}
    assert names == {
        *SOME,
        forms.OWN_LOGITS,
        forms.OWN_MEANS,
        forms.WEIGHT_ROWS,
    }
    by_form = {row["form"]: row for row in rows if row["step"] == 6}
    # What every example of a class shares says nothing of the single one.
    assert math.isnan(by_form[forms.WEIGHT_ROWS]["instance"]["mean"])
    assert math.isnan(by_form[forms.OWN_LOGITS]["beyond"]["mean"])
    assert -1 <= by_form["Grad-CAM, cosine"]["example"]["mean"] <= 1
    stored = json.loads((output / "agreement.json").read_text())
    assert stored["images"] == 100
    assert stored["run"]["seed"] == 0
    text = (output / "README.md").read_text()
    for row in by_form.values():
        assert f"| {row['form']} |" in text
    assert (output / "agreement.png").exists()


def test_a_run_is_its_own_best_teacher(pair):
    """The logits of the run agree with themselves, wholly."""
    rows = agreements.agreement(
        str(pair / "run"), str(pair / "run"), epath.Path(pair / "out"), num_images=50
    )
    own = next(r for r in rows if r["form"] == forms.OWN_LOGITS and r["step"] == 6)
    for column in ("class", "example", "instance"):
        assert own[column]["mean"] == pytest.approx(1.0, abs=1e-5)


def test_a_teacher_of_other_data(pair, digits_config):
    digits_config.method.name = "standard"
    digits_config.total_steps = 2
    digits_config.data.mean = (0.1,)
    other = str(pair / "other")
    whole_run.run("digits", digits_config, other, pictures=False)
    with pytest.raises(UserError, match=r"trained on other inputs: data\.mean"):
        agreements.agreement(str(pair / "run"), other, epath.Path(pair / "out"))


def test_a_damaged_checkpoint_is_left_out(pair):
    """And stays where it is: nothing is written into a run that is read."""
    state = pair / "run" / "checkpoints" / "4" / "state"
    files = [p for p in state.rglob("d/*") if p.is_file()]
    largest = max(files, key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(bytes(content))
    rows = agreements.agreement(
        str(pair / "run"), str(pair / "teacher"), epath.Path(pair / "out")
    )
    assert sorted({row["step"] for row in rows}) == [2, 6]
