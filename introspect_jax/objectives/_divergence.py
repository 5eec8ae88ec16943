"""Softmax over some of the classes, and a Kullback-Leibler divergence that keeps its
digits at any temperature.
"""

import jax
import jax.numpy as jnp
import numpy as np

# Below this the terms exp(c) - 1 - c come from their series: at 0.1 subtraction still
# loses a digit only, and nine terms of the series are exact to float64.
_SERIES_BELOW = 0.1
_SERIES_TERMS = 10
# exp(60) times any sum over classes is far from the largest float32, exp(88).
_LARGEST_EXPONENT = 60.0


def scaled_logits(
    logits: jax.Array, mask: jax.Array | None, temperature: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`z / T` less its maximum, and the classes that have a probability.

    Args:
      logits: z, `[..., classes]`; -inf is a class of probability 0.
      mask: bool, of the shape of the logits: the classes to use; None for all.
      temperature: T, of the type of the logits.

    Returns:
      Logarithms of the probabilities but for a constant, at most 0, and 0 where there
      is no probability; bool, the classes that have one.
    """
    kept = logits != -jnp.inf  # also true of NaN, which is to be seen in the result
    if mask is not None:
        kept = kept & mask
    top = jnp.max(jnp.where(kept, logits, -jnp.inf), axis=-1, keepdims=True)
    top = jnp.where(jnp.any(kept, axis=-1, keepdims=True), top, 0.0)
    # What follows depends on differences only, so the maximum is a constant.
    top = jax.lax.stop_gradient(top)
    # Less the maximum first, for the digits of the quotient. -inf is replaced before:
    # its derivative would be NaN.
    scaled = (jnp.where(kept, logits, top) - top) / temperature
    kept = kept & (scaled != -jnp.inf)
    return jnp.where(kept, scaled, 0.0), kept


def log_softmax(
    logits: jax.Array, mask: jax.Array | None, temperature: jax.Array | float = 1.0
) -> tuple[jax.Array, jax.Array]:
    """`log softmax(z / T)` over the mask, see `scaled_logits`; 0 elsewhere."""
    scaled, kept = scaled_logits(logits, mask, temperature)
    total = jnp.sum(jnp.where(kept, jnp.exp(scaled), 0.0), axis=-1, keepdims=True)
    some = jnp.any(kept, axis=-1, keepdims=True)
    return jnp.where(kept, scaled - jnp.log(jnp.where(some, total, 1.0)), 0.0), kept


def softmax(
    logits: jax.Array, mask: jax.Array | None, temperature: jax.Array | float = 1.0
) -> jax.Array:
    """`softmax(z / T)` over the mask, see `scaled_logits`; a row of 0 without any."""
    scaled, kept = scaled_logits(logits, mask, temperature)
    weights = jnp.where(kept, jnp.exp(scaled), 0.0)
    some = jnp.any(kept, axis=-1, keepdims=True)
    # Not exp(log_softmax), whose rounding grows with the number of classes.
    return weights / jnp.where(some, jnp.sum(weights, axis=-1, keepdims=True), 1.0)


def above_zero(probs: jax.Array) -> jax.Array:
    """Whether there is a probability that has a logarithm; NaN counts as one.

    Numbers below the smallest normal one do not: processors may round them to 0, and
    the logarithm would be -inf.
    """
    return ~(probs < _smallest(probs))


def _smallest(probs: jax.Array) -> float:
    return float(np.finfo(probs.dtype).tiny)


def divergence(
    logits: jax.Array,
    probs: jax.Array,
    mask: jax.Array | None,
    temperature: jax.Array,
) -> jax.Array:
    """`KL(q || softmax(z / T))` over the mask, nats, `[...]`; all of one type.

    The textbook sum subtracts numbers near log K, and at high temperatures the
    difference is below their rounding. Here, with `u` the scaled logits,
    `v = log(q / max q)`, `d = u - v` and `c = d - sum q d`, all on the classes with
    q > 0,

        sum_k exp(u_k) = exp(sum q d) (sum q exp(c) / max q + exp(-sum q d) rest)

    where `rest` is the sum of `exp(u)` over classes with q = 0. Taking the logarithm,

        KL = log(sum q exp(c) + max q exp(-sum q d) rest)
           = log1p(sum q (exp(c) - 1 - c) + max q exp(-sum q d) rest)

    because `sum q = 1` and `sum q c = 0`. No term is negative, so nothing cancels, and
    a rounding of `sum q d` changes the result in proportion only.

    Where the probability of a class with q > 0 is 0, the result is +inf. Rows without
    classes in the mask, or without any q, give 0.
    """
    scaled, kept = scaled_logits(logits, mask, temperature)
    has_mass = above_zero(probs)
    both = has_mass & kept
    row = jnp.any(both, axis=-1, keepdims=True)
    total = jnp.sum(jnp.where(both, probs, 0.0), axis=-1, keepdims=True)
    q = jnp.where(both, probs, 0.0) / jnp.where(row, total, 1.0)
    largest = jnp.where(row, jnp.max(q, axis=-1, keepdims=True), 1.0)
    # Of probs that sum to more than 1, a share may be too small for a logarithm.
    ratio = jnp.where(both, q / largest, 1.0)
    v = jnp.log(jnp.maximum(ratio, _smallest(q)))
    d = jnp.where(both, scaled - v, 0.0)
    mean = jnp.sum(q * d, axis=-1, keepdims=True)
    # Then KL >= -mean - log K: too large for exp, and large enough to lose nothing.
    far = mean < -_LARGEST_EXPONENT
    near_value = _near(scaled, kept, q, both, d, mean, largest, far)
    weights = jnp.sum(jnp.where(kept, jnp.exp(scaled), 0.0), axis=-1)
    log_total = jnp.log(jnp.where(jnp.any(kept, axis=-1), weights, 1.0))
    far_value = jnp.log(largest[..., 0]) - mean[..., 0] + log_total
    value = jnp.where(far[..., 0], far_value, near_value)
    value = jnp.where(row[..., 0], value, 0.0)
    impossible = jnp.any(has_mass & ~kept, axis=-1)
    if mask is not None:
        impossible = impossible & jnp.any(mask, axis=-1)
    return jnp.where(impossible, jnp.inf, value)


def _near(
    scaled: jax.Array,
    kept: jax.Array,
    q: jax.Array,
    both: jax.Array,
    d: jax.Array,
    mean: jax.Array,
    largest: jax.Array,
    far: jax.Array,
) -> jax.Array:
    """`divergence` of the rows that are not `far`; names as there."""
    mean = jnp.where(far, 0.0, mean)
    c = jnp.where(both & ~far, d, mean) - mean
    # q exp(c), which is at most 1, of factors that may be too large and too small.
    used = kept & ~far
    exponent = jnp.where(used, scaled - mean, 0.0)
    share = jnp.where(used, largest * jnp.exp(exponent), 0.0)
    small = jnp.abs(c) < _SERIES_BELOW
    large = c > 1.0
    moderate = jnp.where(large, 0.0, c)
    excess = jnp.where(
        small, _series(jnp.where(small, c, 0.0)), jnp.expm1(moderate) - moderate
    )
    terms = jnp.where(large, share - q * (1.0 + c), q * excess)
    return jnp.log1p(jnp.sum(jnp.where(both, terms, share), axis=-1))


def _series(c: jax.Array) -> jax.Array:
    """`exp(c) - 1 - c` for small c."""
    inner = jnp.ones_like(c)
    for n in range(_SERIES_TERMS, 2, -1):
        inner = 1.0 + c / n * inner
    return c * c / 2 * inner
