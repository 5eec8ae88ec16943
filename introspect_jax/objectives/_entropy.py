"""Entropies of outputs, one number per example; see `losses`."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives import _divergence
from introspect_jax.objectives._checks import describe, matrix
from introspect_jax.objectives._labels import read_labels


def entropy(probs: Real[ArrayLike, "*batch classes"]) -> Float[Array, "*batch"]:
    """`-sum_k p_k log p_k`, nats, `[batch]`.

    Args:
      probs: p, `[batch, classes]` (more axes in front are allowed).

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import entropy
      >>> entropy(jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])).round(3).tolist()
      [0.693, 0.0]
    """
    p = wide(probs)
    if p.ndim == 0:
        raise ValueError(f"probs must be [batch, classes], got {describe(p)}")
    # `xlogy` has an infinite derivative at 0, where soft targets have their label.
    logs = jnp.log(jnp.where(_divergence.above_zero(p), p, 1.0))
    # Not the negated sum, which is -0 for a one-hot row.
    return jnp.sum(-p * logs, axis=-1)


def confidence_penalty(
    logits: Real[ArrayLike, "batch classes"], labels: Labels | None = None
) -> Float[Array, " batch"]:
    """`-H(p)`, nats, `[batch]`, in [-log K, 0].

    Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output
    Distributions, 2017. A sum over classes: code that takes the mean over batch and
    classes has a K times smaller penalty.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`, of which the ignored
        examples (-1 or a row of zeros) give 0; None where none is ignored.

    Raises:
      ValueError: logits of another shape, labels of another batch, or labels that are
        refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import confidence_penalty
      >>> confidence_penalty(jnp.zeros((2, 4)), jnp.array([0, -1])).round(3).tolist()
      [-1.386, 0.0]
    """
    scores = wide(matrix("logits", logits, (None, None)))
    if labels is None:
        return -output_entropy(scores, None)
    read = read_labels(labels, scores.shape[1], len(scores))
    return read.guard(-output_entropy(read.clean(scores), None))


def complement_entropy(
    logits: Real[ArrayLike, "batch classes"], labels: Labels
) -> Float[Array, " batch"]:
    """Entropy of the outputs among the other classes, nats, `[batch]`.

    `-sum_{k != y} r_k log r_k` with `r_k = p_k / (1 - p_y)`, in [0, log(K - 1)]: Chen
    et al., Complement Objective Training, ICLR 2019, whose code divides it by K.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`. Rows without any other
        class, and ignored examples, give 0.

    Raises:
      ValueError: logits of another shape, labels of another batch, or labels that are
        refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import complement_entropy
      >>> complement_entropy(jnp.array([[5.0, 1.0, 1.0]]), jnp.array([0])).tolist()
      [0.693147]
    """
    scores = wide(matrix("logits", logits, (None, None)))
    read = read_labels(labels, scores.shape[1], len(scores))
    return read.guard(output_entropy(read.clean(scores), read.others()))


def output_entropy(
    logits: jax.Array, mask: jax.Array | None, temperature: jax.Array | float = 1.0
) -> jax.Array:
    """Entropy of `softmax(z / T)` over the mask; 0 for rows without classes."""
    log_probs, kept = _divergence.log_softmax(logits, mask, temperature)
    return jnp.sum(jnp.where(kept, -jnp.exp(log_probs) * log_probs, 0.0), axis=-1)
