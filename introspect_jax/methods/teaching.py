"""Another network, as methods that learn from one see it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Another network, trained before on the same data.

    Attributes:
      model: its network, which may be of another kind.
      variables: loads them; may take as long as training does, where it is trained
        first.
      mean_probs: temperature -> float64 `[classes, classes]`; row y is the mean of its
        probabilities at that temperature over the training examples of class y, not
        augmented.
    """

    model: nn.Module
    variables: Callable[[], PyTree]
    mean_probs: Callable[[float], np.ndarray]


def untrained_teacher(
    model: nn.Module, image_shape: tuple[int, int, int], num_classes: int
) -> Teacher:
    """A teacher that says nothing of use, in the shapes and at the cost of a real one.

    Args:
      model: its network.
      image_shape: `(h, w, c)` that it sees.
      num_classes: its outputs.
    """
    images = np.zeros((1, *image_shape), np.float32)
    return Teacher(
        model,
        lambda: jax.jit(lambda key: model.init(key, images, train=True))(
            jax.random.key(0)
        ),
        lambda temperature: np.full((num_classes, num_classes), 1 / num_classes),
    )
