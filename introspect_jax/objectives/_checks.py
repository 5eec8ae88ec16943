"""Checks of shapes and ranges; every message names the argument."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.arrays import check_positive, concrete, wide_dtype


def describe(array: Any) -> str:
    """Type and shape, as in `float32[8, 10]`."""
    return f"{array.dtype}{list(array.shape)}"


def matrix(name: str, values: Any, shape: tuple[int | None, int | None]) -> jax.Array:
    """The values as an array `[batch, classes]`.

    Args:
      name: of the argument, for the message.
      values: anything `jnp.asarray` takes.
      shape: batch and classes, None where any number will do.

    Raises:
      ValueError: another shape, or no class at all.
    """
    array = jnp.asarray(values)
    wanted = zip(("batch", "classes"), shape, strict=True)
    axes = ", ".join(axis if size is None else str(size) for axis, size in wanted)
    fits = array.ndim == 2 and all(
        size in (None, got) for size, got in zip(shape, array.shape, strict=True)
    )
    if not fits or array.shape[1] == 0:
        raise ValueError(f"{name} must be [{axes}], got {describe(array)}")
    return array


def common_dtype(*arrays: jax.Array) -> Any:
    """The floating-point type to compute in: float32, or the widest of them."""
    dtypes = [wide_dtype(array.dtype) for array in arrays]
    return max(dtypes, key=lambda dtype: np.dtype(dtype).itemsize)


def scalar(name: str, value: Any, dtype: Any) -> tuple[jax.Array, np.ndarray | None]:
    """A number as an array of shape `()`, and its value where that is known.

    Both have the type `dtype`, so that a NumPy scalar does not clash with the arrays
    it meets and a number that is 0 in that type is seen to be 0.

    Raises:
      ValueError: more than one number.
    """
    known = concrete(value)
    if known is not None:
        known = known.astype(dtype)
    array = jnp.asarray(value)
    if array.size != 1:
        raise ValueError(f"{name} must be a single number, got {describe(array)}")
    return array.reshape(()).astype(dtype), known


def checked_temperature(
    name: str, value: Any, dtype: Any, batch: int | None = None
) -> jax.Array:
    """A temperature as an array of shape `()`.

    Args:
      name: of the argument, for the message.
      value: the temperature.
      dtype: of the array.
      batch: number of examples, where each may have a temperature of its own; those are
        returned as `[batch, 1]`.

    Raises:
      ValueError: not above 0 or not finite, where it is known.
    """
    if batch is not None and jnp.ndim(value) == 1 and jnp.size(value) not in (1, batch):
        raise ValueError(
            f"{name} must be a single number or [{batch}], got "
            f"{describe(jnp.asarray(value))}"
        )
    if batch is not None and jnp.shape(value) == (batch,):
        array, known = jnp.asarray(value).astype(dtype)[:, None], concrete(value)
        if known is not None:  # NaN is that of an example, and to be seen in its result
            known = known[~np.isnan(known)]
    else:
        array, known = scalar(name, value, dtype)
    if known is not None:
        check_positive(name, known)
        if not np.all(np.isfinite(known)):
            raise ValueError(f"{name} must be finite, got {value}")
    return array


def checked_number(
    name: str, value: Any, dtype: Any, low: float, high: float, brackets: str = "[]"
) -> jax.Array:
    """A number of an interval as an array of shape `()`.

    Raises:
      ValueError: outside of the interval or NaN, where it is known.
    """
    array, known = scalar(name, value, dtype)
    if known is not None:
        above = known >= low if brackets[0] == "[" else known > low
        below = known <= high if brackets[1] == "]" else known < high
        if not np.all(above & below):
            if math.isinf(high):
                interval = f"at least {low:g} and finite"
            else:
                interval = f"in {brackets[0]}{low:g}, {high:g}{brackets[1]}"
            raise ValueError(f"{name} must be {interval}, got {value}")
    return array


def check_class_count(classes: int, least: int) -> None:
    """Raises a ValueError for fewer classes than a formula needs."""
    if classes < least:
        raise ValueError(f"classes must be at least {least}, got {classes}")
