"""What is explained: a target picks an output cotangent, or scores the outputs."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from introspect_jax.arrays import as_probs, concrete, is_integer, one_hot
from introspect_jax.explain.maps import Map
from introspect_jax.explain.problem import Score, placed_like

Target = int | str | ArrayLike | Score


def contrast(classes: ArrayLike, against: ArrayLike) -> Score:
    """The score `z_classes - z_against`: why the one rather than the other?

    Args:
      classes: int or ints `[batch]`.
      against: int or ints `[batch]`.

    Returns:
      A target for `explain_fn`: logits `[batch, classes]` -> scores `[batch]`.

    Example:
      >>> contrast(0, 2)(jnp.array([[3.0, 2.0, 1.0]]))
      Array([2.], dtype=float32)
    """
    return lambda logits: pick(logits, classes) - pick(logits, against)


def log_probability(classes: ArrayLike) -> Score:
    """The score `log softmax(z)` of the classes.

    Args:
      classes: int or ints `[batch]`.

    Returns:
      A target for `explain_fn`: logits `[batch, classes]` -> scores `[batch]`.

    Example:
      >>> log_probability(0)(jnp.zeros((1, 2)))
      Array([-0.6931], dtype=float32)
    """
    return lambda logits: pick(jax.nn.log_softmax(logits), classes)


def top(count: int) -> str:
    """The `count` classes with the largest logits of each example, largest first.

    Args:
      count: at least 1, at most the number of classes.

    Returns:
      A target for `explain_fn`.

    Example:
      >>> top(3)
      'top:3'
    """
    return f"top:{count}"


def pick(values: Array, classes: Any, name: str = "classes") -> Array:
    """The entry of a class in each row of `[batch, classes]`; 0 for -1."""
    rows = jnp.broadcast_to(jnp.asarray(classes), values.shape[:1])
    # Not indexed: a sharded array does not allow that.
    mask = one_hot(rows, values.shape[1], values.dtype, name)
    return jnp.sum(jnp.where(mask == 0, 0.0, values * mask), axis=-1)


def target_cotangents(
    target: Any, explained: Map
) -> Float[Array, "batch classes"] | Float[Array, "batch m classes"]:
    """The output cotangents that a target picks.

    Args:
      target: an int; ints `[batch]` or `[batch, m]`; `"all"`; `"top:m"`; or vectors
        `[batch, classes]` (one-hot or soft, floating point).
      explained: the explanation, whose outputs `"top:m"` evaluates.

    Returns:
      `[batch, classes]`, or `[batch, m, classes]` for several targets an example. Zeros
      for the class -1.

    Raises:
      ValueError: another shape, or a class out of range.
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
    """Ints `[batch, classes]` are class numbers; nobody means 0 0 1 0 by them."""
    known = concrete(target)
    if known is None or known.ndim != 2 or known.shape[1] != classes or classes < 3:
        return
    if known.size and ((known == 0) | (known == 1)).all() and (known.sum(1) == 1).all():
        raise ValueError(
            "target looks one-hot, but ints are class numbers, several for each "
            "example; give a one-hot target in floating point"
        )


def label_cotangents(labels: Any, explained: Map) -> Float[Array, "batch classes"]:
    """Labels as output cotangents: one-hot, or mixtures as they are.

    Args:
      labels: ints `[batch]` (-1: no label) or probabilities `[batch, classes]`.
      explained: the explanation.

    Raises:
      ValueError: another shape, or a class out of range.
    """
    inputs, outputs = explained.problem.inputs, explained.problem.outputs
    batch, classes = outputs.shape
    probs = as_probs(labels, classes, batch).astype(outputs.dtype)
    return placed_like(inputs, probs)


def every_class(explained: Map) -> Float[Array, "batch classes classes"]:
    """The output cotangents of all classes."""
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
