"""Estimates the duration of a run from a few of its steps."""

import time
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import methods, models
from introspect_jax.data.sources import Dataset
from introspect_jax.methods.teaching import untrained_teacher
from introspect_jax.restore import load_config
from introspect_jax.teachers import teacher_config
from introspect_jax.train.state import deployed_variables
from introspect_jax.train.trainer import build

STEPS = 8


def time_config(config: ConfigDict, dataset: Dataset) -> dict[str, float]:
    """Seconds of a training step and of a whole run, without compilation and files.

    Args:
      config: Config of the run.
      dataset: Its data.

    Returns:
      `step`, the median of a few steps, and `total`, for all steps and evaluations.
    """
    network = _teacher_network(config, dataset.num_classes)
    trainer = build(config, dataset, teacher=network)
    teacher = None
    if network is not None:
        image_shape = trainer.context.image_shape
        teacher = untrained_teacher(network, image_shape, dataset.num_classes)
    state = trainer.init_state()
    batch = next(trainer.batches(trainer.constants(teacher)))
    compiled, _ = trainer.compile(state, batch)

    def step() -> None:
        nonlocal state
        state, metrics = compiled(state, batch)
        jax.block_until_ready(metrics)

    one_step = _median_seconds(step, STEPS)
    variables = deployed_variables(trainer.method, state)
    size = config.eval_batch_size
    some = dataset.train.subset(np.arange(min(size, len(dataset.train))))
    one_batch = _median_seconds(lambda: trainer.evaluator(variables, some), 3)
    # At the end the last network is scored, and the best if that is another.
    evaluations = -(-config.total_steps // config.eval_steps) + 2
    batches = evaluations * -(-len(dataset.validation) // size)
    if config.evaluate_test:
        batches += 2 * -(-len(dataset.test) // size)
    total = config.total_steps * one_step + batches * one_batch
    return {"step": one_step, "total": total}


def _median_seconds(function: Callable[[], Any], repeats: int) -> float:
    """Median over calls; a first call, which may compile a program, is not counted."""
    seconds = []
    for _ in range(repeats + 1):
        began = time.monotonic()
        function()
        seconds.append(time.monotonic() - began)
    return float(np.median(seconds[1:]))


def _teacher_network(config: ConfigDict, num_classes: int) -> nn.Module | None:
    """The network of the teacher, which is timed untrained: it costs the same."""
    if not methods.teacher_kind(config.method.name):
        return None
    taught = teacher_config(config)
    if config.method.teacher:
        taught = load_config(config.method.teacher)
    return models.from_config(taught.model, num_classes)
