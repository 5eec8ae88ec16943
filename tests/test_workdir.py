"""Folders in object stores, by a file system that lives in memory."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT
from ml_collections import ConfigDict

from introspect_jax import config as configs
from introspect_jax import workdir
from introspect_jax.config import config_hash, default_config, to_json
from introspect_jax.errors import UserError
from introspect_jax.restore import load_config
from introspect_jax.workdir import open_workdir, write_config

PROGRAM = """
import json
import fsspec
from fsspec.implementations.memory import MemoryFileSystem

class Bucket(MemoryFileSystem):
    protocol = ("gs", "gcs")
    store, pseudo_dirs = {}, [""]

for name in Bucket.protocol:
    fsspec.register_implementation(name, Bucket, clobber=True)

from introspect_jax.config import default_config
from introspect_jax.explain import render
from introspect_jax.report.figures import curves
from introspect_jax.train.progress import Metrics
from introspect_jax.train.files import read_lines
from introspect_jax.workdir import open_workdir, write_config

config = default_config()
workdir = open_workdir("gs://bucket/runs/one", config)
write_config(workdir, config, {"class_names": ["a", "b"]})
assert open_workdir("gs://bucket/runs/one", config) == workdir
for start in (0, 2):  # the second continues from step 2
    metrics = Metrics(workdir, start)
    for step in range(start + 1, 5):
        metrics.write(step, "train", {"loss": 10.0 * start + step})
    metrics.close()
records = read_lines(workdir / "metrics.jsonl")
render.save(curves(records), workdir / "curves.png")
names = sorted(path.name for path in workdir.iterdir())
events = len(list((workdir / "tensorboard").iterdir()))
print(json.dumps([names, events, [r["loss"] for r in records]]))
"""


def test_a_field_of_a_later_version_changes_neither_name_nor_folder(
    tmp_path, monkeypatch
):
    config = default_config()
    config.total_steps = 77
    name = config_hash(config)
    write_config(open_workdir(str(tmp_path), config), config, {})

    def later():
        grown = ConfigDict(default_config().to_dict())
        grown.brand_new = 3
        return grown

    monkeypatch.setattr(configs, "default_config", later)
    monkeypatch.setattr(workdir, "default_config", later)
    config = ConfigDict(config.to_dict() | {"brand_new": 3})
    assert config_hash(config) == name
    assert open_workdir(str(tmp_path), config)
    config.brand_new = 4
    assert config_hash(config) != name
    with pytest.raises(UserError, match="brand_new: 3 there, 4 here"):
        open_workdir(str(tmp_path), config)


def test_a_default_that_changed_is_not_taken_for_the_old_one(tmp_path, monkeypatch):
    """Its name is the same, so the folder is: it keeps the values of its run."""
    config = default_config()
    name = config_hash(config)
    write_config(open_workdir(str(tmp_path), config), config, {})

    def later():
        changed = ConfigDict(default_config().to_dict())
        changed.optimizer.learning_rate = 0.3
        return changed

    monkeypatch.setattr(configs, "default_config", later)
    monkeypatch.setattr(workdir, "default_config", later)
    assert config_hash(later()) == name
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.1 there, 0\.3"):
        open_workdir(str(tmp_path), later())


def test_a_stored_value_that_is_called_otherwise_now(tmp_path):
    """`smoothed_labels` was `entropy_matched`."""
    stored = default_config()
    stored.method.introspective.source = "entropy_matched"
    (tmp_path / "config.json").write_text(to_json(stored))
    config = load_config(str(tmp_path))
    assert config.method.introspective.source == "smoothed_labels"
    now = default_config()
    now.method.introspective.source = "smoothed_labels"
    assert config_hash(config) == config_hash(now) == config_hash(stored)


def test_object_store():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, events, losses = json.loads(done.stdout)
    assert names == [
        "config.json",
        "curves.png",
        "data.json",
        "metrics.jsonl",
        "tensorboard",
    ]
    assert events == 2
    assert losses == [1, 2, 23, 24]
