"""How long will a run take? From a few of its steps."""

import time

import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import methods, models
from introspect_jax.data.batches import padded_batches
from introspect_jax.data.sources import Dataset
from introspect_jax.methods import Teacher
from introspect_jax.teachers import teacher_config
from introspect_jax.train.experiment import Experiment, build, untrained_teacher
from introspect_jax.train.restore import load_config
from introspect_jax.train.state import deployed_variables

STEPS = 8


def time_config(config: ConfigDict, dataset: Dataset) -> dict[str, float]:
    """Seconds of a few steps and of a batch of evaluation, without their compilation.

    Args:
      config: of a run.
      dataset: of the config.

    Returns:
      `step` and `total`, in seconds: the median of a step, and what a whole run takes
      with its evaluations, without compilation and files.
    """
    experiment = build(config, dataset, teacher=_untrained(config, dataset))
    state = experiment.init_state()
    batches = experiment.batches(0)
    batch = next(batches)
    step, _ = experiment.compile(state, batch)
    seconds = []
    for _ in range(STEPS + 1):
        began = time.monotonic()
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        seconds.append(time.monotonic() - began)
    one = float(np.median(seconds[1:]))  # the first may still load its program
    evaluations = -(-config.total_steps // config.eval_steps)
    batches_read = evaluations * -(-len(dataset.validation) // config.eval_batch_size)
    if config.evaluate_test:
        batches_read += -(-len(dataset.test) // config.eval_batch_size)
    total = config.total_steps * one + batches_read * _evaluation(experiment, state)
    return {"step": one, "total": total}


def _evaluation(experiment: Experiment, state) -> float:
    """Seconds of a batch."""
    variables = deployed_variables(experiment.method, state)
    size = experiment.config.eval_batch_size
    part = experiment.dataset.train.subset(np.arange(min(size, 64)))
    images, labels, _ = next(padded_batches(part, size, threads=0))
    seconds = []
    for _ in range(4):
        began = time.monotonic()
        jax.block_until_ready(experiment.eval_step(variables, images, labels))
        seconds.append(time.monotonic() - began)
    return float(np.median(seconds[1:]))


def _untrained(config: ConfigDict, dataset: Dataset) -> Teacher | None:
    """A teacher that says nothing of use, at the cost of the real one."""
    if not methods.teacher_kind(config.method.name):
        return None
    taught = teacher_config(config)
    if config.method.teacher:
        taught = load_config(config.method.teacher)
    model = models.build(**taught.model, num_classes=dataset.num_classes)
    return untrained_teacher(model, dataset.image_shape, dataset.num_classes)
