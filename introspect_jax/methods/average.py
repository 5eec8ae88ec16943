"""Exponential moving average of a network during training."""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.models.protocol import is_constant

PyTree = Any


def running_average(
    old: PyTree, new: PyTree, decay: float, step: jax.Array | int
) -> PyTree:
    """`d old + (1 - d) new`, with `d = min(decay, (1 + step) / (10 + step))`.

    The decay is small at first, so that the average forgets the initial values. The
    collection `constants` of a network is not averaged.

    Args:
      old: Average before this step.
      new: New values, of the same structure.
      decay: Decay d in [0, 1).
      step: Number of steps taken before this one.
    """
    current = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree_util.tree_map_with_path(
        lambda path, a, b: a if is_constant(path) else current * a + (1 - current) * b,
        old,
        new,
    )
