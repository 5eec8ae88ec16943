"""Losses, one number per example, in float32 or wider.

An example with the label -1, or with a label of zeros, is ignored: its losses and their
gradients are exactly 0, so a mean over a batch has to be divided by the number of
labelled examples. Under `jit`, other class numbers that do not exist give NaN for their
row; otherwise they are a ValueError.

A logit of -inf is a class of probability 0. It takes part in no loss, unless the target
has mass on it: then the loss is +inf.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives import _divergence
from introspect_jax.objectives._checks import (
    checked_number,
    checked_temperature,
    common_dtype,
    matrix,
)
from introspect_jax.objectives._decoupled import nckd, tckd
from introspect_jax.objectives._distillation import (
    distillation,
    kl_to_target,
    mutual_divergence,
)
from introspect_jax.objectives._entropy import (
    complement_entropy,
    confidence_penalty,
    entropy,
)
from introspect_jax.objectives._labels import read_labels
from introspect_jax.objectives._lengths import squared_jacobian, squared_length
from introspect_jax.objectives._soft_target import SoftTarget, read_target

__all__ = [
    "complement_entropy",
    "confidence_penalty",
    "cross_entropy",
    "describe_target",
    "distillation",
    "entropy",
    "kl_to_target",
    "loss_fn",
    "mutual_divergence",
    "nckd",
    "squared_jacobian",
    "squared_length",
    "tckd",
]


def cross_entropy(
    logits: Real[ArrayLike, "batch classes"], labels: Labels
) -> Float[Array, " batch"]:
    """`-sum_k y_k log p_k`, nats, `[batch]`.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`; -1 or a row of zeros
        for an ignored example, whose loss is 0.

    Raises:
      ValueError: logits of another shape, labels of another batch, or labels that are
        refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import cross_entropy
      >>> logits = jnp.array([[1.0, 2.0, -jnp.inf, 0.5], [0.0, 0.0, 0.0, 0.0]])
      >>> cross_entropy(logits, jnp.array([1, 3])).round(4).tolist()
      [0.4644, 1.3863]
    """
    return _cross_entropy(wide(matrix("logits", logits, (None, None))), labels, 1.0)


def _cross_entropy(
    logits: jax.Array, labels: Any, temperature: jax.Array | float
) -> jax.Array:
    """Cross entropy with `softmax(z / T)`; T is of the type of the logits."""
    read = read_labels(labels, logits.shape[1], len(logits))
    dtype = common_dtype(logits, read.probs)
    log_probs, kept = _divergence.log_softmax(read.clean(logits), None, temperature)
    log_probs = jnp.where(kept, log_probs.astype(dtype), -jnp.inf)
    has_mass = read.probs != 0
    # 0 log 0 is 0, in the derivative too.
    terms = read.probs.astype(dtype) * jnp.where(has_mass, log_probs, 0.0)
    return read.guard(-jnp.sum(terms, axis=-1))


def loss_fn(
    logits: Real[ArrayLike, "batch classes"],
    labels: Labels,
    target: SoftTarget,
    *,
    weight: Real[ArrayLike, ""] = 0.1,
    student_temperature: Real[ArrayLike, ""] = 1.0,
) -> tuple[Float[Array, " batch"], dict[str, Float[Array, " batch"]]]:
    """The introspective objective, per example.

    With `p_T = softmax(z / T)`, T the `student_temperature`, `q` the target and `w` the
    weight:

    * support `"others"`: `CE(y, p) + w T^2 KL(q || p_T restricted to the others)`;
    * support `"all"`: `(1 - w) CE(y, p) + w T^2 CE(q, p_T)`, which at T = 1 is the
      cross entropy with `(1 - w) y + w q`.

    Args:
      logits: of the network in training, `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`; -1 or a row of zeros
        for an ignored example, whose loss is 0.
      target: of `introspect`.
      weight: w, at least 0; at most 1 for the support `"all"`.
      student_temperature: T, above 0.

    Returns:
      The loss `[batch]` in nats, and metrics, each `[batch]`: `cross_entropy`,
      `distillation` (the second term without its weight), `target_entropy` (nats),
      `target_true_mass` (the share of the soft target on the label) and `degenerate`
      (0 or 1).

    Raises:
      ValueError: shapes that differ, a weight or temperature out of range, an unknown
        support, or labels that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import loss_fn
      >>> from introspect_jax.objectives.targets import similarity_target
      >>> logits, labels = jnp.array([[3.0, 1.0, 0.0]]), jnp.array([0])
      >>> target = similarity_target(jnp.array([[1.0, 0.5, 0.0]]), labels)
      >>> loss, metrics = loss_fn(logits, labels, target, weight=0.3)
      >>> loss.round(3).tolist(), sorted(metrics)[:3]
      ([0.17], ['cross_entropy', 'degenerate', 'distillation'])
    """
    scores = wide(matrix("logits", logits, (None, None)))
    batch, classes = scores.shape
    target = read_target(target, batch, classes)
    read = read_labels(labels, classes, batch)
    dtype = common_dtype(scores, read.probs, target.probs)
    scores = read.clean(scores).astype(dtype)
    highest = 1.0 if target.support == "all" else float("inf")
    share = checked_number(
        "weight", weight, dtype, 0.0, highest, "[]" if highest == 1.0 else "[)"
    )
    softness = checked_temperature("student_temperature", student_temperature, dtype)
    hard = cross_entropy(scores, labels)
    if target.support == "others":
        soft = distillation(scores, labels, target, softness)
        loss = hard + _weighted(share, soft)
    else:
        soft = read.guard(_cross_entropy(scores, target.probs, softness) * softness**2)
        loss = _weighted(1 - share, hard) + _weighted(share, soft)
    return loss, {
        "cross_entropy": hard,
        "distillation": soft,
        **describe_target(target, labels),
    }


def _weighted(weight: jax.Array, values: jax.Array) -> jax.Array:
    """Weight times values; a term without weight is 0 where its value is +inf."""
    without = (weight == 0) & jnp.isinf(values)
    return weight * jnp.where(without, 0.0, values)


def describe_target(
    target: SoftTarget, labels: Labels
) -> dict[str, Float[Array, " batch"]]:
    """Statistics of a soft target, each `[batch]`; 0 for ignored examples.

    Args:
      target: any.
      labels: ints `[batch]` or probabilities `[batch, classes]`.

    Returns:
      `target_entropy` (nats, in [0, log K]), `target_true_mass` (its share on the
      label, in [0, 1]) and `degenerate` (0 or 1).

    Raises:
      ValueError: labels of another batch or number of classes, or labels that are
        refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import describe_target
      >>> from introspect_jax.objectives.targets import whole_target
      >>> target = whole_target(jnp.array([[0.5, 0.5, 0.0]]))
      >>> parts = describe_target(target, jnp.array([0]))
      >>> {name: value.round(3).tolist() for name, value in parts.items()}
      {'target_entropy': [0.693], 'target_true_mass': [0.5], 'degenerate': [0.0]}
    """
    probs = matrix("target.probs", target.probs, (None, None))
    target = read_target(target, *probs.shape)
    read = read_labels(labels, probs.shape[1], len(probs))
    dtype = common_dtype(target.probs, read.probs)
    on_label = read.probs.astype(dtype) * target.probs.astype(dtype)
    values = {
        "target_entropy": entropy(target.probs),
        "target_true_mass": jnp.sum(on_label, axis=-1),
        "degenerate": target.degenerate.astype(target.probs.dtype),
    }
    return {name: read.guard(value) for name, value in values.items()}
