"""Targets: output cotangents, or scores of the outputs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from introspect_jax.arrays import as_probs, concrete, is_integer, one_hot
from introspect_jax.explain.maps import Map
from introspect_jax.explain.placement import placed_like
from introspect_jax.explain.problem import Score

Target = int | str | ArrayLike | Score


def contrast(classes: ArrayLike, against: ArrayLike) -> Score:
    """Score `z_classes - z_against`: explains why one class is preferred to another.

    Args:
      classes: Preferred class, an int or ints `[batch]`.
      against: Other class, an int or ints `[batch]`.

    Returns:
      A target for `explain_fn`: a function from logits `[batch, classes]` to scores
      `[batch]`.

    Example:
      >>> contrast(0, 2)(jnp.array([[3.0, 2.0, 1.0]]))
      Array([2.], dtype=float32)
    """
    return lambda logits: pick(logits, classes) - pick(logits, against)


def log_probability(classes: ArrayLike) -> Score:
    """Score `log softmax(z)` of the classes.

    Args:
      classes: Class, an int or ints `[batch]`.

    Returns:
      A target for `explain_fn`: a function from logits `[batch, classes]` to scores
      `[batch]`.

    Example:
      >>> log_probability(0)(jnp.zeros((1, 2)))
      Array([-0.6931], dtype=float32)
    """
    return lambda logits: pick(jax.nn.log_softmax(logits), classes)


def top(count: int) -> str:
    """Target of the `count` classes with the largest logits, in descending order.

    Args:
      count: Number of classes, at least 1 and at most all classes.

    Returns:
      A target for `explain_fn`.

    Example:
      >>> top(3)
      'top:3'
    """
    return f"top:{count}"


def pick(values: Array, classes: Any, name: str = "classes") -> Array:
    """Selects the entry of a class in each row of `[batch, classes]`; 0 for -1."""
    rows = jnp.broadcast_to(jnp.asarray(classes), values.shape[:1])
    # A mask instead of indexing, which sharded arrays do not support.
    mask = one_hot(rows, values.shape[1], values.dtype, name)
    return jnp.sum(jnp.where(mask == 0, 0.0, values * mask), axis=-1)


def target_cotangents(
    target: Any, explained: Map
) -> Float[Array, "batch classes"] | Float[Array, "batch m classes"]:
    """Output cotangents of a target.

    Args:
      target: An int; ints `[batch]` or `[batch, m]`; `"all"`; `"top:m"`; or vectors
        `[batch, classes]` (one-hot or soft, floating point).
      explained: Explanation at fixed inputs, whose outputs determine `"top:m"`.

    Returns:
      `[batch, classes]`, or `[batch, m, classes]` for several targets per example.
      Zeros for the class -1.

    Raises:
      ValueError: A target of the wrong shape, or a class out of range.
    """
    inputs, outputs = explained.problem.inputs, explained.problem.outputs
    batch, classes = outputs.shape
    if isinstance(target, str):
        return _named(target, explained)
    target = jnp.asarray(target)
    if is_integer(target):
        _refuse_one_hot(target, classes)
        if target.ndim == 0:
            target = jnp.broadcast_to(target, (batch,))
        if target.ndim in (1, 2) and target.shape[0] == batch:
            rows = one_hot(target, classes, outputs.dtype, "target")
            return placed_like(inputs, rows)
    elif target.shape == outputs.shape:
        return placed_like(inputs, target.astype(outputs.dtype))
    raise ValueError(
        f"target must be an int, ints [{batch}] or [{batch}, m], or vectors "
        f"[{batch}, {classes}], got {target.dtype}{list(target.shape)}"
    )


def _refuse_one_hot(target: Array, classes: int) -> None:
    """Raises a ValueError for integer targets `[batch, classes]` that look one-hot.

    Such ints would be read as class numbers, which is almost certainly not intended.
    """
    known = concrete(target)
    if known is None or known.ndim != 2 or known.shape[1] != classes or classes < 3:
        return
    if known.size and ((known == 0) | (known == 1)).all() and (known.sum(1) == 1).all():
        raise ValueError(
            "target looks one-hot, but ints are class numbers, several for each "
            "example; give a one-hot target in floating point"
        )


def label_cotangents(labels: Any, explained: Map) -> Float[Array, "batch classes"]:
    """Converts labels to output cotangents: one-hot rows, or soft labels unchanged.

    Args:
      labels: Ints `[batch]` (-1 for no label) or probabilities `[batch, classes]`.
      explained: Explanation at fixed inputs.

    Raises:
      ValueError: Labels of the wrong shape, or a class out of range.
    """
    inputs, outputs = explained.problem.inputs, explained.problem.outputs
    batch, classes = outputs.shape
    probs = as_probs(labels, classes, batch).astype(outputs.dtype)
    return placed_like(inputs, probs)


def every_class(explained: Map) -> Float[Array, "batch classes classes"]:
    """Output cotangents of all classes."""
    inputs, outputs = explained.problem.inputs, explained.problem.outputs
    batch, classes = outputs.shape
    eye = jnp.eye(classes, dtype=outputs.dtype)
    return placed_like(inputs, jnp.broadcast_to(eye, (batch, classes, classes)))


def _named(target: str, explained: Map) -> Array:
    problem = explained.problem
    classes = problem.outputs.shape[1]
    if target == "all":
        return every_class(explained)
    name, _, count = target.partition(":")
    if name != "top" or not count.isdecimal() or not 1 <= int(count) <= classes:
        raise ValueError(
            f"a target that is a string is 'all' or 'top:m' with m in 1..{classes}, "
            f"got {target!r}"
        )
    largest = jax.lax.top_k(problem.logits(problem.inputs), int(count))[1]
    return one_hot(largest, classes, problem.outputs.dtype)
