"""Labels, as class numbers or as probabilities, and what they leave."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from introspect_jax import arrays
from introspect_jax.arrays import Labels
from introspect_jax.objectives._checks import check_class_count

# Sums of float32 shares may end this far below 0.
_ROUNDING = 1e-6


@dataclasses.dataclass(frozen=True)
class ReadLabels:
    """Labels as every function of these modules uses them.

    Attributes:
      probs: `[batch, classes]`; zeros for ignored examples, NaN for invalid ones.
      labelled: bool `[batch]`, False for ignored examples.
      valid: bool `[batch]`, False where a class number does not exist.
    """

    probs: jax.Array
    labelled: jax.Array
    valid: jax.Array

    def others(self) -> jax.Array:
        """Bool `[batch, classes]`, see `other_classes`."""
        without_mass = self.probs == 0
        everywhere = ~jnp.any(without_mass, axis=-1, keepdims=True)
        below = self.probs < jnp.max(self.probs, axis=-1, keepdims=True)
        others = jnp.where(everywhere, below, without_mass)
        return others & self.labelled[:, None]

    def clean(self, logits: jax.Array) -> jax.Array:
        """The logits, with zeros for ignored examples.

        A `where` around the loss is not enough: the derivative of a NaN times zero is
        NaN.
        """
        return jnp.where(self.labelled[:, None], logits, 0.0)

    def guard(self, values: jax.Array) -> jax.Array:
        """Values `[batch, ...]`: 0 for ignored examples, NaN for invalid ones."""
        rows = (len(self.labelled),) + (1,) * (values.ndim - 1)
        values = jnp.where(self.labelled.reshape(rows), values, 0.0)
        return values + arrays.nan_unless(self.valid.reshape(rows), values.dtype)


def read_labels(labels: Any, classes: int, batch: int | None = None) -> ReadLabels:
    """Reads labels of either kind.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: their number.
      batch: the number of examples, None where any will do.

    Raises:
      ValueError: another shape, class numbers that do not exist, or negative
        probabilities, where they are known.
    """
    check_class_count(classes, 1)
    probs = arrays.as_probs(labels, classes, batch)
    known = arrays.concrete(labels)
    if known is not None and known.ndim == 2 and np.any(known < -_ROUNDING):
        raise ValueError(
            f"labels [batch, {classes}] must be probabilities, got a value of "
            f"{known.min():g}"
        )
    return ReadLabels(
        probs,
        labelled=jnp.any(probs != 0, axis=-1),
        valid=~jnp.any(jnp.isnan(probs), axis=-1),
    )


def as_probs(labels: Labels, classes: int) -> Float[Array, "batch classes"]:
    """Labels as probabilities `[batch, classes]`, float32 or wider.

    Args:
      labels: ints `[batch]` of any integer type, or probabilities `[batch, classes]`,
        also as one-hot rows of integers. The label -1 (no label), like a row of zeros,
        marks an example to be ignored.
      classes: their number.

    Returns:
      Rows that sum to 1; a row of zeros for an ignored example. Under `jit`, where no
      error can be raised, a row of NaN for any other number that is no class.

    Raises:
      ValueError: another shape, class numbers outside of -1..classes - 1, or negative
        probabilities, where they are known.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import as_probs
      >>> as_probs(jnp.array([2, -1]), 3).tolist()
      [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    return read_labels(labels, classes).probs


def other_classes(labels: Labels, classes: int) -> Bool[Array, "batch classes"]:
    """Bool `[batch, classes]`: the classes that are not the label.

    Those on which the label has no mass: of a label mixed from two examples, all but
    its two classes. Where every class has mass (label smoothing), those below the
    largest entry; a uniform label leaves none.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`, see `as_probs`. An
        ignored example has no other classes.
      classes: their number.

    Raises:
      ValueError: labels that are refused by `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import other_classes
      >>> labels = jnp.array([[0.92, 0.04, 0.04], [0.7, 0.3, 0.0]])
      >>> other_classes(labels, 3).tolist()
      [[False, True, True], [False, False, True]]
    """
    return read_labels(labels, classes).others()


def check_others(classes: int) -> None:
    """Raises a ValueError where a target over the other classes is always the same.

    Args:
      classes: their number, at least 3.

    Raises:
      ValueError: fewer classes.

    Example:
      >>> from introspect_jax.objectives.targets import check_others
      >>> check_others(3)
    """
    if classes <= 2:
        raise ValueError(
            "support='others' needs at least 3 classes: with "
            f"{classes} there is nothing to distribute; use support='all'"
        )
