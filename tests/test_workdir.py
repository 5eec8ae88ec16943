"""Folders in object stores, by a file system that lives in memory."""

import json
import subprocess
import sys

from conftest import ROOT

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
write_config(workdir, config)
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


def test_object_store():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names, events, losses = json.loads(done.stdout)
    assert names == ["config.json", "curves.png", "metrics.jsonl", "tensorboard"]
    assert events == 2
    assert losses == [1, 2, 23, 24]
