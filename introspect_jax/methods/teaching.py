"""The teacher, as methods receive it."""

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
    """A network that was trained before on data with the same classes.

    Attributes:
      variables: Variables of the network `Context.teacher`.
      mean_probs: Function from a temperature to float64 `[classes, classes]`. Row y is
        the mean of the teacher's probabilities at that temperature over the training
        examples of class y, without augmentation.
    """

    variables: PyTree
    mean_probs: Callable[[float], np.ndarray]


def untrained_teacher(
    model: nn.Module, image_shape: tuple[int, int, int], num_classes: int
) -> Teacher:
    """Returns an untrained teacher with the shapes and the cost of a real one.

    Args:
      model: Network of the teacher.
      image_shape: Shape `(h, w, c)` of its inputs.
      num_classes: Number of outputs.
    """
    params, state = jax.jit(lambda key: init_variables(model, image_shape, key))(
        jax.random.key(0)
    )
    return Teacher(
        {"params": params, **state},
        lambda temperature: np.full((num_classes, num_classes), 1 / num_classes),
    )
