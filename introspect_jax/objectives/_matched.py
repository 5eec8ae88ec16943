"""The temperature at which a soft target has a wanted entropy."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from introspect_jax.arrays import Labels, nan_unless, wide
from introspect_jax.errors import unknown
from introspect_jax.objectives._checks import describe, matrix
from introspect_jax.objectives._divergence import scaled_logits
from introspect_jax.objectives._entropy import output_entropy
from introspect_jax.objectives._labels import read_labels
from introspect_jax.objectives._soft_target import check_support, support_mask

PERS = ("example", "batch")
# How close, in nats, an entropy has to be to count as reached.
TOLERANCE = 1e-3
# Temperatures that are tried, in units of the smallest distance from the largest
# similarity and of the largest one. At the first, the rest has a weight of exp(-100);
# at the second, the entropy is less than 1e-6 below its limit, `1 / (8 T^2)`.
_COLDEST, _HOTTEST = 1 / 100, 1000.0


class Matched(NamedTuple):
    """Result of `matched_temperature`.

    Attributes:
      temperature: Above 0, `[batch]` or `[]`; a constant of the loss.
      reached: Bool of the same shape, whether the entropy is within `TOLERANCE` of the
        one that was asked for.
    """

    temperature: Float[Array, " *batch"]
    reached: Bool[Array, " *batch"]


def matched_temperature(
    similarities: Real[ArrayLike, "batch classes"],
    labels: Labels,
    entropy: Real[ArrayLike, " batch"] | Real[ArrayLike, ""],
    *,
    support: str = "others",
    per: str = "example",
    steps: int = 60,
) -> Matched:
    """Temperature T such that `softmax(similarities / T)` has a wanted entropy.

    The entropy grows with T, from the log of the number of classes that share the
    largest similarity to the log of the number of classes in the support. T is found by
    bisection of its logarithm. Outside of these limits T is the lowest or highest that
    is tried, whose entropy is the nearest there is.

    Args:
      similarities: `[batch, classes]`, as `similarity_target` takes them; only their
        differences within a row count, in any units.
      labels: Ints `[batch]` or probabilities `[batch, classes]`.
      entropy: Wanted entropy in nats, `[batch]` or one for all.
      support: See `similarity_target`.
      per: `"example"`: each has a temperature of its own. `"batch"`: all have the same,
        at which the mean of their entropies is the mean of those that are wanted.
      steps: Number of bisection steps, at least 1.

    Returns:
      The temperature and whether the entropy is reached: `[batch]` each, or `[]` per
      batch. Examples without a label, or without a class in their support, are in no
      mean; their temperature is 1, and ignored examples count as reached. Rows of equal
      similarities have one entropy at every temperature. NaN among the similarities of
      the support, or as the wanted entropy, gives NaN.

    Raises:
      ValueError: An unknown support or `per`, fewer than one step, an entropy of
        another shape, or what `similarity_target` refuses.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import entropy
      >>> from introspect_jax.objectives.targets import (
      ...     matched_temperature, similarity_target)
      >>> scores, labels = jnp.array([[1.0, 0.5, 0.0, -1.0]]), jnp.array([0])
      >>> found = matched_temperature(scores, labels, 0.7)
      >>> target = similarity_target(scores, labels, temperature=found.temperature)
      >>> entropy(target.probs).round(3).tolist(), found.reached.tolist()
      ([0.7], [True])
      >>> matched_temperature(scores, labels, 2.0).reached.tolist()  # above log 3
      [False]
    """
    if per not in PERS:
        raise ValueError(unknown("per", per, PERS))
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    scores = jax.lax.stop_gradient(
        wide(matrix("similarities", similarities, (None, None)))
    )
    batch, classes = scores.shape
    check_support(support, classes)
    read = read_labels(labels, classes, batch)
    mask = support_mask(read, support)
    kept = mask & (scores != -jnp.inf)
    counted = jnp.any(kept, axis=-1)

    def most(values: jax.Array) -> jax.Array:
        """Largest of the examples that share a temperature; of each if none do."""
        return jnp.max(values, keepdims=True) if per == "batch" else values

    def mean(values: jax.Array) -> jax.Array:
        """Mean over the counted examples that share a temperature."""
        values = jnp.where(counted, values, 0.0)
        if per == "example":
            return values
        count = jnp.sum(counted, dtype=values.dtype, keepdims=True)
        return jnp.sum(values, keepdims=True) / jnp.maximum(count, 1.0)

    wanted = mean(_read_entropy(entropy, scores))
    # In units of the largest value, for similarities of any size.
    size = most(jnp.max(jnp.where(kept, jnp.abs(scores), 0.0), axis=-1))
    unit = jnp.where(size > 0, size, 1.0)
    scaled, _ = scaled_logits(scores / unit[:, None], mask)
    limits = np.finfo(scores.dtype)
    apart = -scaled > limits.tiny
    nearest = -most(jnp.max(jnp.where(apart, scaled, -jnp.inf), axis=-1))
    farthest = most(jnp.max(-scaled, axis=-1))
    # Else there is one entropy only, and any temperature will do.
    varied = farthest > limits.tiny
    coldest = jnp.maximum(nearest * _COLDEST, 2 * float(limits.tiny))

    def halve(
        _: jax.Array, bounds: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        found = mean(output_entropy(scaled, kept, jnp.exp(middle)[:, None]))
        below = found < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low, high = jax.lax.fori_loop(
        0,
        steps,
        halve,
        (
            jnp.log(jnp.where(varied, coldest, 1.0)),
            jnp.log(jnp.where(varied, farthest * _HOTTEST, 1.0)),
        ),
    )
    temperature = jnp.exp((low + high) / 2) * unit
    temperature = jnp.clip(temperature, 2 * limits.tiny, limits.max / 2)
    found = mean(output_entropy(scores, mask, temperature[:, None]))
    reached = jnp.abs(found - wanted) <= TOLERANCE
    # Comparisons with NaN are False, and would pass for some entropy.
    known = jnp.isfinite(size) & ~jnp.isnan(wanted)
    temperature = temperature + nan_unless(known, temperature.dtype)
    if per == "batch":
        return Matched(temperature[0], reached[0])
    return Matched(temperature, reached | ~read.labelled)


def _read_entropy(entropy: Any, scores: jax.Array) -> jax.Array:
    """The wanted entropies `[batch]`, constants of the type of the similarities."""
    wanted = jnp.asarray(entropy)
    if wanted.shape not in ((), (len(scores),)):
        raise ValueError(f"entropy must be [{len(scores)}], got {describe(wanted)}")
    wanted = jax.lax.stop_gradient(wanted.astype(scores.dtype))
    return jnp.broadcast_to(wanted, (len(scores),))
