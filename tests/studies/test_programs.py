"""Runs of a study that differ in the seed alone are compiled once."""

import hashlib

import pytest
from conftest import assemble
from marks import slow_but

from introspect_jax import data
from introspect_jax.methods import modules

# With a teacher, with other networks, with draws or arrays of their own.
DIFFERENT = ("introspective", "kd", "dml", "ols", "saliency_guided", "jacobian")


@pytest.mark.parametrize("name", slow_but(DIFFERENT, modules()))
def test_the_program_does_not_depend_on_the_seed(name, digits_config, tiny_teacher):
    """What JAX keys its compilation cache by is the same text."""
    digits_config.method.name = name
    dataset = data.load(digits_config.data)
    programs = set()
    for seed in (0, 1):
        digits_config.seed = seed
        made = assemble(digits_config, dataset=dataset, teacher=tiny_teacher)
        batch = next(made.batches())
        lowered = made.train_step.lower(made.abstract_state(), batch)
        programs.add(hashlib.sha256(lowered.as_text().encode()).hexdigest())
    assert len(programs) == 1
