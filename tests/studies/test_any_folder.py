"""The commands with a study and a network of one's own, outside of the checkout."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from introspect_jax.errors import UserError
from studies.design import load_study
from studies.plan import Planner

STUDY = """
from studies import Study, chain, point

def get_study(arg=None):
    return Study(
        question="Does it run here?",
        config="configs/digits.py",  # in the checkout
        fields={"model.name": "own:build", "model.options.width": 2, "total_steps": 2},
        arms=chain(point("standard", {"method.name": "standard"})),
        seeds=[0],
        baseline="standard",
    )
"""
NETWORK = """
import flax.linen as nn

class Network(nn.Module):
    num_classes: int
    width: int

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes)(x)

def build(num_classes, width):
    return Network(num_classes, width)
"""


def launch(folder, command, *arguments):
    done = subprocess.run(
        [sys.executable, str(ROOT / "launch" / f"{command}.py"), *arguments],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def test_study_and_report(tmp_path):
    (tmp_path / "mine.py").write_text(STUDY)
    (tmp_path / "own.py").write_text(NETWORK)
    code, shown = launch(tmp_path, "study", "--study=mine.py", "--workdir=work")
    assert code == 0, shown
    assert "all runs are done" in shown
    code, shown = launch(tmp_path, "report", "--workdir=work", "--output=out")
    assert code == 0, shown
    (record,) = (tmp_path / "out" / "runs").iterdir()
    assert json.loads(record.read_text())["config"]["model.options.width"] == 2


def test_agreement(tmp_path):
    runs = ["--workdir=a", "--teacher=b", "--output=c"]
    code, shown = launch(tmp_path, "agreement", *runs)
    assert code == 1
    assert shown.startswith("error: 'a' is not the work folder of a run")


def test_studies_of_the_checkout(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name, study = load_study("configs/studies/noise.py")
    assert name == "noise"
    assert Planner(study).plan({}).runs
    with pytest.raises(UserError, match=r"did you mean 'configs/studies/noise\.py'"):
        load_study("configs/studies/noises.py")
