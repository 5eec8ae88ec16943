"""The page of what similarities know, from a tiny run and a tiny teacher."""

import json
import math

import pytest
from etils import epath

from introspect_jax import run as whole_run
from introspect_jax.errors import UserError
from introspect_jax.report import agreement as agreements
from introspect_jax.report import forms

SOME = ("gradient, projection", "Grad-CAM, cosine")


@pytest.fixture
def pair(tiny_model, digits_config, tmp_path, monkeypatch):
    """A run with three checkpoints, and its teacher."""
    monkeypatch.setattr(agreements, "FORMS", {name: forms.FORMS[name] for name in SOME})
    digits_config.method.name = "standard"
    digits_config.checkpoints_kept = 3
    digits_config.total_steps = 6
    for seed, name in ((0, "run"), (1, "teacher")):
        digits_config.seed = seed
        whole_run.run("digits", digits_config, str(tmp_path / name), pictures=False)
    return tmp_path


def test_page(pair):
    output = epath.Path(pair / "out")
    rows = agreements.agreement(
        str(pair / "run"), str(pair / "teacher"), output, num_images=100
    )
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
    digits_config.data.mean = (0.1,)
    other = str(pair / "other")
    whole_run.run("digits", digits_config, other, pictures=False)
    with pytest.raises(UserError, match=r"trained on other data: data\.mean"):
        agreements.agreement(str(pair / "run"), other, epath.Path(pair / "out"))


def test_a_damaged_checkpoint_is_left_out(pair):
    """And set aside, as everywhere."""
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
