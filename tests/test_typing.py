"""The types as users meet them: `mypy --strict` on a program of theirs."""

import os
import re
import runpy
import subprocess
import sys

import pytest
from conftest import ROOT

RIGHT = """
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax import class_similarity, explain_fn, introspect, loss_fn
from introspect_jax.explain import (
    Cosine,
    Explanation,
    IntegratedGradients,
    Map,
    Probes,
    Problem,
    SmoothGrad,
)


@dataclasses.dataclass(frozen=True, eq=False)
class SquaredGradient(Explanation):
    scale: float = 1.0
    linear = False

    def bind(self, problem: Problem) -> Map:
        _, vjp = jax.vjp(problem.logits, problem.inputs)
        return Map(problem, lambda c: self.scale * jax.vmap(vjp)(c)[0] ** 2)


def logits_fn(x: jax.Array) -> jax.Array:
    return jnp.tanh(x) @ jnp.arange(60.0).reshape(12, 5)


key = jax.random.key(0)
host, host_labels = np.ones((4, 12), np.float32), np.arange(4)
device, labels = jnp.ones((4, 12)), jnp.arange(4)

maps: jax.Array = explain_fn(logits_fn, host, host_labels)
maps = explain_fn(logits_fn, device, "all", IntegratedGradients(num_steps=20))
maps = explain_fn(logits_fn, device, 3, SquaredGradient(scale=2.0))
maps = explain_fn(logits_fn, device, "top:3", explanation="smoothgrad", key=key)
maps = explain_fn(logits_fn, device, lambda z: z[:, 0] - z[:, 1])

similar: jax.Array = class_similarity(logits_fn, host, host_labels, SquaredGradient())
similar = class_similarity(
    logits_fn, device, labels, SmoothGrad(num_samples=8), Cosine(Probes(8)), key=key
)

soft = introspect(logits_fn, host, host_labels, similarity="cosine")
soft = introspect(logits_fn, device, labels, temperature=0.5)
loss, metrics = loss_fn(logits_fn(device), labels, soft, weight=0.1)
total: jax.Array = loss + soft.probs.sum(-1) + metrics["cross_entropy"]
"""

WRONG_HEAD = """
import jax.numpy as jnp
import numpy as np

from introspect_jax import class_similarity, explain_fn, introspect
from introspect_jax.explain import Cosine, IntegratedGradients, SmoothGrad

x, y = np.ones((4, 12), np.float32), np.arange(4)
"""
# A mistake, and what mypy must say of it.
WRONG = {
    "IntegratedGradients(num_step=20)": 'argument "num_step"',
    'Cosine(norms="probes")': 'Argument "norms" to "Cosine" .*"str"',
    "explain_fn(jnp.tanh, x, y, explanation=3)": 'Argument "explanation" .*"int"',
    'explain_fn(jnp.tanh, x, y, method="gradient")': 'argument "method"',
    'explain_fn(jnp.tanh, x, {"class": 0})': r'Argument 3 .*"dict\[str, int\]"',
    "class_similarity(jnp.tanh, x, y, Cosine())": 'Argument 4 .*"Cosine"',
    "introspect(jnp.tanh, x, y, similarity=SmoothGrad())": 'Argument "similarity"',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typing")
    (folder / "right.py").write_text(RIGHT)
    (folder / "wrong.py").write_text(WRONG_HEAD + "\n".join(WRONG))
    return folder


@pytest.fixture(scope="module")
def errors(folder):
    """What mypy says, with the number of each line; both programs at once."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "right.py", "wrong.py"),
            "--follow-imports=silent",  # of what is imported, as if installed
            "--config-file=",
            "--cache-dir=cache",
        ],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return [line for line in done.stdout.splitlines() if ": error: " in line]


def test_a_right_program_passes(errors):
    assert [line for line in errors if not line.startswith("wrong.py:")] == []


@pytest.mark.slow
def test_a_right_program_runs(folder):
    assert runpy.run_path(str(folder / "right.py"))["total"].shape == (4,)


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_named(errors, mistake):
    line = WRONG_HEAD.count("\n") + 1 + list(WRONG).index(mistake)
    said = [error for error in errors if error.startswith(f"wrong.py:{line}:")]
    assert len(said) == 1, errors
    assert re.search(WRONG[mistake], said[0]), said
