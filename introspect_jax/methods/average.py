"""The exponential average of a network while it trains."""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.models.protocol import is_constant

PyTree = Any


def running_average(
    old: PyTree, new: PyTree, decay: float, step: jax.Array | int
) -> PyTree:
    """`d old + (1 - d) new`, with `d = min(decay, (1 + step) / (10 + step))`.

    Short at first, so that the average forgets the initial values. Constants of a
    network stay as they are.

    Args:
      old: the average before.
      new: what has come, of the same structure.
      decay: in [0, 1).
      step: steps taken before this one.
    """
    current = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree_util.tree_map_with_path(
        lambda path, a, b: a if is_constant(path) else current * a + (1 - current) * b,
        old,
        new,
    )
