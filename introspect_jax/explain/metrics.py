"""Metrics of explanations: faithfulness, class specificity and stability.

Metrics are pure functions that return one number per example, `[batch]`
(`parameter_randomisation`: per layer and example, `[layers, batch]`). Metrics of given
maps are called as `metric(logits_fn, inputs, target, maps, ...)`. Metrics that compute
explanations at other inputs or with other parameters are called as
`metric(logits_fn, inputs, target, explanation, ...)`. `mean_interval` summarises the
values over examples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from introspect_jax.arrays import UNLABELLED, is_integer
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.intervals import mean_interval
from introspect_jax.explain.maps import wait_for
from introspect_jax.explain.problem import Problem, Score, image_axes, make_problem
from introspect_jax.explain.stability import (
    max_sensitivity,
    parameter_randomisation,
    random_logit_similarity,
)
from introspect_jax.explain.targets import pick

__all__ = [
    "completeness_error",
    "deletion",
    "insertion",
    "max_sensitivity",
    "mean_interval",
    "parameter_randomisation",
    "random_logit_similarity",
]

# An int, ints `[batch]`, or a function from logits to scores `[batch]`.
OneTarget = ArrayLike | Score


def deletion(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: ArrayLike,
    maps: Float[ArrayLike, " batch *map"],
    *,
    num_steps: int = 16,
    baseline: str | ArrayLike = "zero",
    channel_axis: int | None = -1,
    chunk_size: int | None = None,
    batched: tuple[ArrayLike, ...] = (),
) -> Float[Array, " batch"]:
    """Area under a class's probability as the most important pixels are removed.

    Petsiuk et al. 2018 (RISE). Pixels are ranked by the explanation, summed over
    channels, and set to the baseline in `num_steps` equal parts. The area over `[0, 1]`
    is computed with the trapezoidal rule. Lower is better.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]`.
      inputs: Images `[batch, h, w, c]`, or another layout described by `channel_axis`;
        greyscale images `[batch, h, w]` and volumes require `channel_axis=None`.
      target: Class, an int or ints `[batch]`; -1 gives NaN.
      maps: Explanations, shaped like the inputs or with one channel.
      num_steps: Number of parts, at least 1; there are `num_steps + 1` forward passes.
      baseline: Values of removed pixels, see `baselines.make_baseline`.
      channel_axis: Channel axis of the inputs and the maps; None if there are no
        channels.
      chunk_size: Number of forward passes computed at once; None folds all of them into
        one batch.
      batched: Arrays with one row per example, passed to `logits_fn` as additional
        arguments.

    Returns:
      `[batch]`, in [0, 1].

    Raises:
      ValueError: Maps of the wrong shape, a layout that contradicts `channel_axis`, or
        a class out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> f = lambda x: jnp.stack([9 * x[:, 0, 0, 0], x[:, 1, 1, 0]], axis=1)
      >>> x = jnp.ones((1, 2, 2, 1))
      >>> right = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
      >>> deletion(f, x, 0, right, num_steps=4).round(3)
      Array([0.389], dtype=float32)
      >>> deletion(f, x, 0, -right, num_steps=4).round(3)
      Array([0.937], dtype=float32)
    """
    problem = _images(logits_fn, inputs, channel_axis, chunk_size, batched, "deletion")
    gone = make_baseline(baseline, problem)
    return _area(problem, problem.inputs, gone, target, maps, num_steps)


def insertion(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: ArrayLike,
    maps: Float[ArrayLike, " batch *map"],
    *,
    num_steps: int = 16,
    baseline: str | ArrayLike = "blur",
    channel_axis: int | None = -1,
    chunk_size: int | None = None,
    batched: tuple[ArrayLike, ...] = (),
) -> Float[Array, " batch"]:
    """Area under a class's probability as the most important pixels are inserted.

    Like `deletion`, but from the baseline (by default the blurred image) to the image.
    Higher is better.

    Args:
      logits_fn: See `deletion`.
      inputs: See `deletion`.
      target: See `deletion`.
      maps: See `deletion`.
      num_steps: See `deletion`.
      baseline: Initial image, see `baselines.make_baseline`.
      channel_axis: See `deletion`.
      chunk_size: See `deletion`.
      batched: See `deletion`.

    Returns:
      `[batch]`, in [0, 1].

    Raises:
      ValueError: See `deletion`.

    Example:
      >>> import jax.numpy as jnp
      >>> f = lambda x: jnp.stack([9 * x[:, 0, 0, 0], x[:, 1, 1, 0]], axis=1)
      >>> x = jnp.ones((1, 2, 2, 1))
      >>> right = jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1.0)
      >>> insertion(f, x, 0, right, num_steps=4, baseline="zero").round(3)
      Array([0.937], dtype=float32)
    """
    problem = _images(logits_fn, inputs, channel_axis, chunk_size, batched, "insertion")
    start = make_baseline(baseline, problem)
    return _area(problem, start, problem.inputs, target, maps, num_steps)


def completeness_error(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: OneTarget,
    maps: Float[ArrayLike, " batch *map"],
    *,
    baseline: str | ArrayLike = "zero",
    channel_axis: int | None = -1,
    batched: tuple[ArrayLike, ...] = (),
) -> Float[Array, " batch"]:
    """Completeness error `sum(A) - (f(x) - f(b))`, captum's convergence delta.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]`.
      inputs: Array `[batch, ...]`.
      target: An int, ints `[batch]`, or a function from logits to scores `[batch]`.
      maps: Explanations `[batch, ...]` of the target.
      baseline: Baseline of the explanations, see `baselines.make_baseline`; it must not
        be random.
      channel_axis: Channel axis of the inputs, for baselines that depend on it.
      batched: Arrays with one row per example, passed to `logits_fn` as additional
        arguments.

    Returns:
      `[batch]`, in units of the logits; NaN for the class -1.

    Raises:
      ValueError: Maps with another batch size than the inputs, or a class out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> f = lambda x: jnp.stack([x[:, 0] ** 2, x[:, 1]], axis=1)
      >>> x = jnp.array([[1.0, 2.0]])
      >>> maps = explain_fn(f, x, 0, "gradient_x_input")  # 2, and f(x) - f(0) = 1
      >>> completeness_error(f, x, 0, maps)
      Array([1.], dtype=float32)
    """
    score = target if callable(target) else None
    problem = make_problem(
        logits_fn, inputs, channel_axis=channel_axis, batched=batched, score=score
    )
    start = make_baseline(baseline, problem)
    there, here = problem.logits(problem.inputs), problem.logits(start)
    difference = there - here
    change = difference[:, 0] if score else _picked(difference, target)
    total = _fitting(maps, problem)
    return total.sum(tuple(range(1, total.ndim))) - change


def _images(
    logits_fn: Callable[..., Any],
    inputs: Any,
    channel_axis: int | None,
    chunk_size: int | None,
    batched: tuple[Any, ...],
    purpose: str,
) -> Problem:
    problem = make_problem(
        logits_fn,
        inputs,
        channel_axis=channel_axis,
        chunk_size=chunk_size,
        batched=batched,
    )
    image_axes(problem.inputs.shape, channel_axis, purpose)
    return problem


def _fitting(values: Any, problem: Problem) -> Array:
    maps: Array = jnp.asarray(values)
    if maps.ndim == 0 or len(maps) != len(problem.inputs):
        raise ValueError(
            f"maps must have {len(problem.inputs)} rows, like the inputs, got "
            f"{list(maps.shape)}"
        )
    return maps.astype(problem.inputs.dtype)


def _area(
    problem: Problem, start: Array, end: Array, target: Any, maps: Any, num_steps: int
) -> Array:
    """Area under the probability of the target from `start` to `end`."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    inputs, axis = problem.inputs, problem.channel_axis
    pixels = list(inputs.shape)
    if axis is not None:
        pixels[axis] = 1
    maps = _fitting(maps, problem)
    if list(maps.shape) not in (pixels, list(inputs.shape)):
        raise ValueError(
            f"maps must be {list(inputs.shape)}, like the inputs, or {pixels}, got "
            f"{list(maps.shape)} with channel_axis={axis}"
        )
    batch, count = pixels[0], int(np.prod(pixels[1:]))
    importance = maps if axis is None else maps.sum(axis, keepdims=True)
    importance = importance.reshape(batch, count)
    order = jnp.argsort(jnp.argsort(-importance, axis=-1), axis=-1).reshape(pixels)
    edges = np.round(np.arange(num_steps + 1) / num_steps * count).astype(np.int32)
    size = problem.chunk_size or num_steps + 1
    parts: list[Array] = []
    for first in range(0, num_steps + 1, size):
        some = jnp.asarray(edges[first : first + size])
        if parts:
            some = wait_for(parts[-1], some)
        changed = order[:, None] < some.reshape(1, -1, *[1] * (order.ndim - 1))
        mixed = jnp.where(changed, end[:, None], start[:, None])
        probs = jax.nn.softmax(problem.logits_at(mixed))
        parts.append(jax.vmap(lambda p: _picked(p, target), in_axes=1)(probs))
    curve = jnp.concatenate(parts)
    return (curve.sum(0) - (curve[0] + curve[-1]) / 2) / num_steps


def _picked(values: Array, target: Any) -> Array:
    """Entry of the target in each row of `[batch, classes]`; NaN for -1."""
    batch = len(values)
    target = jnp.asarray(target)
    if target.shape not in ((), (batch,)) or not is_integer(target):
        raise ValueError(
            f"target must be an int or ints [{batch}], got "
            f"{target.dtype}{list(target.shape)}"
        )
    return jnp.where(target == UNLABELLED, jnp.nan, pick(values, target, "target"))
