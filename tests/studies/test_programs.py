"""Runs of a study that differ in the seed alone are compiled once."""

import hashlib

import jax
import pytest

from introspect_jax.data import sources
from introspect_jax.methods import modules, teacher_kind
from introspect_jax.train.experiment import build


@pytest.mark.usefixtures("tiny_model")
@pytest.mark.parametrize("name", modules())
def test_the_program_does_not_depend_on_the_seed(name, digits_config, tiny_teacher):
    """What JAX keys its compilation cache by is the same text."""
    digits_config.method.name = name
    dataset = sources.load(digits_config.data)
    programs = set()
    for seed in (0, 1):
        digits_config.seed = seed
        teacher = tiny_teacher if teacher_kind(name) else None
        experiment = build(digits_config, dataset, jax.devices()[:1], teacher=teacher)
        batch = next(experiment.batches(0))
        lowered = experiment.train_step.lower(experiment.abstract_state(), batch)
        programs.add(hashlib.sha256(lowered.as_text().encode()).hexdigest())
    assert len(programs) == 1
