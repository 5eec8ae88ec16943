"""Array helpers that the rooms of the library share."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Integer, Real

# Class numbers, or probabilities (one-hot rows of integers or bools among them).
Labels = (
    Integer[ArrayLike, " batch"]
    | Real[ArrayLike, "batch classes"]
    | Bool[ArrayLike, "batch classes"]
)
UNLABELLED = -1


def concrete(value: Any) -> np.ndarray | None:
    """The value as a NumPy array, or None where only its shape is known here.

    That is the case under a transformation (`jit`, `vmap`, `grad`) and for arrays
    that other processes hold a part of.
    """
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)


def wide_dtype(dtype: Any) -> Any:
    """The floating-point type to compute in: float32, or wider if `dtype` is."""
    # Not `promote_types`: strict dtype promotion refuses mixed types.
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize > 4:
        return dtype
    return jnp.float32


def wide(values: Any) -> jax.Array:
    """The values in float32 or wider."""
    array: jax.Array = jnp.asarray(values)
    return array.astype(wide_dtype(array.dtype))


def is_integer(values: Any) -> bool:
    """Whether the values are of an integer type (bool is none)."""
    return bool(jnp.issubdtype(jnp.asarray(values).dtype, jnp.integer))


def check_positive(name: str, value: Any) -> None:
    """Raises a ValueError for a value that is not above 0, where values are known."""
    known = concrete(value)
    if known is not None and not np.all(known > 0):
        raise ValueError(f"{name} must be above 0, got {value}")


def check_classes(labels: Any, classes: int, name: str = "labels") -> None:
    """Raises a ValueError for class numbers that do not exist, where they are known.

    Args:
      labels: ints, any shape; -1 stands for "no label".
      classes: their number.
      name: of the argument, for the message.
    """
    known = concrete(labels)
    if known is None or known.size == 0:
        return
    low, high = known.min(), known.max()
    if low < UNLABELLED or high >= classes:
        raise ValueError(
            f"{name} must lie in 0..{classes - 1} (or be -1: no label), got "
            f"{low}..{high}"
        )


def one_hot(
    labels: Any, classes: int, dtype: Any = jnp.float32, name: str = "labels"
) -> jax.Array:
    """Class numbers of any integer type as rows `[..., classes]`.

    Args:
      labels: ints, any shape.
      classes: their number.
      dtype: of the rows.
      name: of the argument, for the message.

    Returns:
      A row of zeros for -1 (no label). Under `jit`, where no error can be raised, a row
      of NaN for any other number that is no class: nothing finite comes of it.

    Raises:
      ValueError: a number that is no class, where the numbers are known.
    """
    check_classes(labels, classes, name)
    labels = jnp.asarray(labels)
    signed = jnp.issubdtype(labels.dtype, jnp.signedinteger)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # the class numbers may not fit
        signed = True
    # In its own type: a 64-bit number made narrower could become a class.
    valid = labels < classes
    if signed:
        valid = valid & (labels >= UNLABELLED)
    numbers = jnp.arange(classes, dtype=labels.dtype)
    hit = labels[..., None] == numbers.reshape((1,) * labels.ndim + (classes,))
    rows: jax.Array = hit.astype(dtype) + nan_unless(valid, dtype)[..., None]
    return rows


def nan_unless(valid: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """0 where `valid` is True, NaN elsewhere.

    Computed, because `jax_debug_nans` objects to a constant NaN even where it is not
    selected.
    """
    return jnp.sqrt(jnp.where(valid, 0.0, -1.0).astype(dtype))


def as_probs(
    labels: Any, classes: int, batch: int | None = None, name: str = "labels"
) -> jax.Array:
    """Labels as probabilities `[batch, classes]`, float32 or wider.

    Args:
      labels: ints `[batch]`, or probabilities `[batch, classes]` of any type.
      classes: their number.
      batch: the number of rows that is wanted; None for any.
      name: of the argument, for the message.

    Raises:
      ValueError: another shape, or a class out of range; see `one_hot`.
    """
    array = jnp.asarray(labels)
    fits = batch is None or (array.ndim > 0 and len(array) == batch)
    if fits and array.ndim == 1 and is_integer(array):
        # As they came: `jnp.asarray` shortens 64-bit numbers.
        return one_hot(labels, classes, jnp.float32, name)
    if fits and array.ndim == 2 and array.shape[1] == classes:
        return wide(array)
    rows = "batch" if batch is None else str(batch)
    raise ValueError(
        f"{name} must be ints [{rows}] or probabilities [{rows}, {classes}], got "
        f"{array.dtype}{list(array.shape)}"
    )
