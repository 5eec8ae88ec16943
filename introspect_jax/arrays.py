"""Array helpers shared by all subpackages."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Bool, Integer, Real

# Class numbers, or probabilities (including one-hot rows of integers or bools).
Labels = (
    Integer[ArrayLike, " batch"]
    | Real[ArrayLike, "batch classes"]
    | Bool[ArrayLike, "batch classes"]
)
UNLABELLED = -1


def concrete(value: Any) -> np.ndarray | None:
    """Returns the value as a NumPy array, or None if only its shape is known.

    Values are unknown under a transformation (`jit`, `vmap`, `grad`) and for arrays
    that are partly held by other processes.
    """
    if isinstance(value, jax.core.Tracer):
        return None
    if isinstance(value, jax.Array) and not value.is_fully_addressable:
        return None
    return np.asarray(value)


def wide_dtype(dtype: Any) -> Any:
    """Floating-point type for computations: float32, or `dtype` if that is wider."""
    # Not `promote_types`: strict dtype promotion refuses mixed types.
    if jnp.issubdtype(dtype, jnp.floating) and np.dtype(dtype).itemsize > 4:
        return dtype
    return jnp.float32


def wide(values: Any) -> jax.Array:
    """Converts the values to float32, or keeps a wider floating-point type."""
    array: jax.Array = jnp.asarray(values)
    return array.astype(wide_dtype(array.dtype))


def is_integer(values: Any) -> bool:
    """Whether the values have an integer type; bool does not count as one."""
    return bool(jnp.issubdtype(jnp.asarray(values).dtype, jnp.integer))


def check_positive(name: str, value: Any) -> None:
    """Raises a ValueError if any value, where known, is not above 0."""
    known = concrete(value)
    if known is not None and not np.all(known > 0):
        raise ValueError(f"{name} must be above 0, got {value}")


def check_classes(labels: Any, classes: int, name: str = "labels") -> None:
    """Raises a ValueError if any class number, where known, is out of range.

    Args:
      labels: Ints of any shape; -1 stands for "no label".
      classes: Number of classes.
      name: Argument name for the error message.
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
    """One-hot rows `[..., classes]` of class numbers of any integer type.

    Args:
      labels: Ints of any shape.
      classes: Number of classes.
      dtype: Type of the rows.
      name: Argument name for the error message.

    Returns:
      One-hot rows, with a row of zeros for -1 (no label). Under `jit`, where no error
      can be raised, any other number out of range gives a row of NaN.

    Raises:
      ValueError: A class number out of range, if the numbers are known.
    """
    check_classes(labels, classes, name)
    labels = jnp.asarray(labels)
    signed = jnp.issubdtype(labels.dtype, jnp.signedinteger)
    if labels.dtype.itemsize < 4:
        labels = labels.astype(jnp.int32)  # the class numbers may not fit
        signed = True
    # Compared in the original type: a narrowed 64-bit number could be a valid class.
    valid = labels < classes
    if signed:
        valid = valid & (labels >= UNLABELLED)
    numbers = jnp.arange(classes, dtype=labels.dtype)
    hit = labels[..., None] == numbers.reshape((1,) * labels.ndim + (classes,))
    rows: jax.Array = hit.astype(dtype) + nan_unless(valid, dtype)[..., None]
    return rows


def nan_unless(valid: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Returns 0 where `valid` is True and NaN elsewhere.

    The NaN is computed, because `jax_debug_nans` reports a constant NaN even where it
    is not selected.
    """
    return jnp.sqrt(jnp.where(valid, 0.0, -1.0).astype(dtype))


def as_probs(
    labels: Any, classes: int, batch: int | None = None, name: str = "labels"
) -> jax.Array:
    """Converts labels to probabilities `[batch, classes]`, float32 or wider.

    Args:
      labels: Ints `[batch]`, or probabilities `[batch, classes]` of any type.
      classes: Number of classes.
      batch: Required number of rows; None accepts any.
      name: Argument name for the error message.

    Raises:
      ValueError: Labels of the wrong shape, or a class out of range; see `one_hot`.
    """
    array = jnp.asarray(labels)
    fits = batch is None or (array.ndim > 0 and len(array) == batch)
    if fits and array.ndim == 1 and is_integer(array):
        # Passed unconverted: `jnp.asarray` truncates 64-bit numbers.
        return one_hot(labels, classes, jnp.float32, name)
    if fits and array.ndim == 2 and array.shape[1] == classes:
        return wide(array)
    rows = "batch" if batch is None else str(batch)
    raise ValueError(
        f"{name} must be ints [{rows}] or probabilities [{rows}, {classes}], got "
        f"{array.dtype}{list(array.shape)}"
    )
