"""What an explanation is about: a target picks an output cotangent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Score = Callable[[jax.Array], jax.Array]


def contrast(classes: Any, against: Any) -> Score:
    """The score `z_classes - z_against`: why the one rather than the other?

    Args:
      classes: int or ints `[batch]`.
      against: int or ints `[batch]`.

    Returns:
      A target for `explain_fn`: logits `[batch, classes]` -> scores `[batch]`.
    """
    return lambda logits: _pick(logits, classes) - _pick(logits, against)


def log_probability(classes: Any) -> Score:
    """The score `log softmax(z)` of the classes (int or ints `[batch]`)."""
    return lambda logits: _pick(jax.nn.log_softmax(logits), classes)


def top(count: int) -> str:
    """The `count` classes with the largest logits of each example, largest first."""
    return f"top:{count}"


def _pick(values: jax.Array, classes: Any) -> jax.Array:
    classes = jnp.broadcast_to(jnp.asarray(classes), values.shape[:1])
    check_range(classes, values.shape[1])
    return jnp.take_along_axis(values, classes[:, None], axis=1)[:, 0]


def target_cotangents(
    target: Any,
    outputs: jax.ShapeDtypeStruct | jax.Array,
    like: jax.Array,
    values: Callable[[], jax.Array] | None = None,
) -> jax.Array:
    """The output cotangents that a target picks.

    Args:
      target: an int; ints `[batch]` or `[batch, m]`; `"all"`; `"top:m"`; or vectors
        `[batch, classes]` (one-hot or soft, floating point).
      outputs: shape `[batch, classes]` and dtype of the outputs.
      like: an array that lies on the devices as the outputs do (the inputs).
      values: gives the outputs themselves, asked for by `"top:m"` alone.

    Returns:
      `[batch, classes]`, or `[batch, m, classes]` for several targets an example.

    Raises:
      ValueError: another shape, or a class out of range.
    """
    batch, classes = outputs.shape
    if isinstance(target, str):
        return varying_like(like, _named(target, outputs, values))
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.integer):
        check_range(target, classes)
        if target.ndim == 0:
            target = jnp.broadcast_to(target, (batch,))
        if target.ndim in (1, 2) and target.shape[0] == batch:
            one_hot = jax.nn.one_hot(target, classes, dtype=outputs.dtype)
            return varying_like(like, one_hot)
    elif target.shape == outputs.shape:
        return varying_like(like, target.astype(outputs.dtype))
    raise ValueError(
        f"target must be an int, ints [{batch}] or [{batch}, m], or vectors "
        f"[{batch}, {classes}], got {target.dtype}{list(target.shape)}"
    )


def _named(target: str, outputs: Any, values: Any) -> jax.Array:
    batch, classes = outputs.shape
    if target == "all":
        eye = jnp.eye(classes, dtype=outputs.dtype)
        return jnp.broadcast_to(eye, (batch, classes, classes))
    name, _, count = target.partition(":")
    if name != "top" or not count.isdecimal() or not 1 <= int(count) <= classes:
        raise ValueError(
            f"a target that is a string is 'all' or 'top:m' with m in 1..{classes}, "
            f"got {target!r}"
        )
    largest = jax.lax.top_k(values(), int(count))[1]
    return jax.nn.one_hot(largest, classes, dtype=outputs.dtype)


def varying_like(like: jax.Array, values: jax.Array) -> jax.Array:
    """The same values, marked as varying over the mesh axes that `like` varies over.

    Inside `jax.shard_map` a VJP takes no cotangent that is the same everywhere for an
    output that is not. The selection has two equal sides and compiles to nothing.
    """
    anything = like.ravel()[0]
    return jnp.where(anything == anything, values, values)


def check_range(labels: jax.Array, classes: int) -> None:
    """Raises a ValueError for classes that do not exist, where values are known."""
    if isinstance(labels, jax.core.Tracer) or labels.size == 0:
        return  # only known when run: one_hot then gives a zero row
    values = np.asarray(labels)  # NumPy: under `jit` even constants would be traced
    low, high = values.min(), values.max()
    if low < 0 or high >= classes:
        raise ValueError(f"classes must lie in 0..{classes - 1}, got {low}..{high}")
