"""Another network, as methods that learn from one see it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from introspect_jax.models import init_variables

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Another network, trained before on the same data.

    Attributes:
      variables: Of the network `Context.teacher`.
      mean_probs: Temperature -> float64 `[classes, classes]`; row y is the mean of its
        probabilities at that temperature over the training examples of class y, not
        augmented.
    """

    variables: PyTree
    mean_probs: Callable[[float], np.ndarray]


def untrained_teacher(
    model: nn.Module, image_shape: tuple[int, int, int], num_classes: int
) -> Teacher:
    """A teacher that says nothing of use, in the shapes and at the cost of a real one.

    Args:
      model: Its network.
      image_shape: `(h, w, c)` that it sees.
      num_classes: Its outputs.
    """
    params, state = jax.jit(lambda key: init_variables(model, image_shape, key))(
        jax.random.key(0)
    )
    return Teacher(
        {"params": params, **state},
        lambda temperature: np.full((num_classes, num_classes), 1 / num_classes),
    )
