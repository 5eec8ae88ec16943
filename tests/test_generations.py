"""Born-Again Networks: a chain of runs by one command."""

import json

import pytest
from conftest import Interrupted
from etils import epath

from introspect_jax import data, teachers
from introspect_jax import run as whole_run
from introspect_jax.train.progress import Reporter
from introspect_jax.workdir import default_workdir


@pytest.fixture
def third(digits_config):
    """Four steps of the third generation."""
    digits_config.method.name = "ban"
    digits_config.method.ban.generations = 3
    digits_config.total_steps = 4
    return digits_config.lock()


def test_every_generation_has_a_folder_beside_the_last(third, tmp_path):
    """That of its own command, where the students of its config find it."""
    dataset = data.load(third.data)
    config, folder, seeds = third, epath.Path(tmp_path) / "last", []
    while found := teachers.find("digits", config, folder, dataset):
        config, folder = found.config, found.folder
        own = default_workdir("digits", config, data=dataset.identity.sha256)
        assert folder == epath.Path(tmp_path) / own.removeprefix("runs/")
        seeds.append(config.seed)
    assert seeds == [1002, 1001, 1000]


@pytest.mark.slow
def test_a_chain_is_continued_and_its_cost_is_known(third, tmp_path, monkeypatch):
    """Interrupted in its second run, it ends with the bits of one that was not."""
    monkeypatch.setattr(whole_run.figures, "draw_all", lambda *arguments: None)
    begun = []

    def counted(self, *given):
        begun.append(given)
        plain(self, *given)

    plain = Reporter.__init__
    monkeypatch.setattr(Reporter, "__init__", counted)
    whole = whole_run.run("digits", third, str(tmp_path / "whole" / "last"))
    assert len(begun) == 4
    folder = tmp_path / "parts" / "last"
    with monkeypatch.context() as patch:
        log = Reporter.log

        def leaving(self, step, values):
            if len(begun) == 6 and step == 4:  # of generation 1
                raise Interrupted
            return log(self, step, values)

        patch.setattr(Reporter, "log", leaving)
        with pytest.raises(Interrupted):
            whole_run.run("digits", third, str(folder))
    assert len(list(folder.parent.glob("*/summary.json"))) == 1
    found = whole_run.run("digits", third, str(folder))
    assert len(begun) == 6 + 3
    assert found["state_sha256"] == whole["state_sha256"]
    record, chain = found["teacher"], []
    while record:
        summary = json.loads(
            (epath.Path(record["workdir"]) / "summary.json").read_text()
        )
        for field in ("state_sha256", "seconds", "cost", "test"):
            assert record[field] == summary[field]
        chain.append((record["method"], record["seed"]))
        record = record["teacher"]
    assert chain == [("ban", 1002), ("ban", 1001), ("standard", 1000)]
