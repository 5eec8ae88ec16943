"""What `pip install introspect-jax` brings, and that it is enough.

Needs a package index, and installs JAX in an environment of its own.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

pytestmark = pytest.mark.slow

SOURCE = (
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "pyproject.toml",
    "requirements.txt",
    "setup.py",
)
# What the trainer needs, or only tests and examples.
ABSENT = {
    "absl-py",
    "beartype",
    "chex",
    "dm-haiku",
    "equinox",
    "etils",
    "flax",
    "grain",
    "matplotlib",
    "ml-collections",
    "optax",
    "orbax-checkpoint",
    "pillow",
    "rich",
    "scikit-learn",
    "tensorboardx",
    "tensorflow",
    "tensorflow-datasets",
}
PROGRAM = """
import importlib.resources

import jax.numpy as jnp
import numpy as np

import introspect_jax
from introspect_jax import class_similarity, explain_fn, introspect, loss_fn
from introspect_jax.explain import Cosine, IntegratedGradients, agreement, metrics
from introspect_jax.explain import render
from introspect_jax.objectives import components, losses, targets

kernel = np.random.RandomState(0).normal(size=(16, 5)).astype(np.float32)
x, y = np.random.RandomState(1).rand(3, 4, 4, 1).astype(np.float32), np.arange(3)


def logits_fn(x):
    return jnp.tanh(x).reshape(len(x), -1) @ kernel


maps = explain_fn(logits_fn, x, y, IntegratedGradients(num_steps=4))
assert maps.shape == x.shape
similar = class_similarity(logits_fn, x, y, similarity=Cosine())
assert similar.shape == (3, 5)
target = introspect(logits_fn, x, y)
loss, _ = loss_fn(logits_fn(x), jnp.asarray(y), target, weight=0.1)
assert loss.shape == (3,) and bool(jnp.all(loss > 0))
scores = metrics.deletion(logits_fn, x, y, maps, num_steps=4)
assert metrics.mean_interval(scores)["count"] == 3
assert (importlib.resources.files(introspect_jax) / "py.typed").is_file()
try:
    render.new_figure(1, 1, (2, 2))
except ImportError as error:
    assert "introspect-jax[train]" in str(error)
else:
    raise AssertionError("drawn without matplotlib")
try:
    import introspect_jax.run
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("trained without the trainer's packages")
print(introspect_jax.__file__)
"""


def call(*command, cwd):
    """What a command prints; it knows nothing of this checkout."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of an environment that holds the wheel and what it requires."""
    folder = tmp_path_factory.mktemp("wheel")
    # A copy: building leaves files behind, and would take up those of other builds.
    source = folder / "source"
    source.mkdir()
    for name in SOURCE:
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "introspect_jax",
        source / "introspect_jax",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    call(sys.executable, "-m", "venv", "env", cwd=folder)
    pip = (folder / "env" / "bin" / "python", "-m", "pip")
    call(*pip, "wheel", "--no-deps", "--wheel-dir=wheels", "./source", cwd=folder)
    (wheel,) = (folder / "wheels").glob("introspect_jax-*.whl")
    call(*pip, "install", wheel, cwd=folder)
    return folder


def test_the_wheel_brings_jax_numpy_and_jaxtyping_alone(installed):
    python = installed / "env" / "bin" / "python"
    listed = call(python, "-m", "pip", "list", "--format=json", cwd=installed)
    names = {entry["name"].lower().replace("_", "-") for entry in json.loads(listed)}
    assert names >= {"introspect-jax", "jax", "jaxlib", "jaxtyping", "numpy", "scipy"}
    assert not names & ABSENT


def test_the_wheel_is_enough_for_explanations_and_targets(installed):
    python = installed / "env" / "bin" / "python"
    where = call(python, "-c", PROGRAM, cwd=installed)
    assert str(installed / "env") in where
