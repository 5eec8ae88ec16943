"""Divergences from a target, one number per example; see `losses`."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives import _divergence
from introspect_jax.objectives._checks import (
    checked_temperature,
    common_dtype,
    describe,
    matrix,
)
from introspect_jax.objectives._labels import read_labels
from introspect_jax.objectives._soft_target import SoftTarget, read_target


def kl_to_target(
    logits: Real[ArrayLike, "*batch classes"],
    target_probs: Real[ArrayLike, "*batch classes"],
    mask: Bool[ArrayLike, "*batch classes"] | None = None,
    temperature: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, "*batch"]:
    """`KL(q || softmax(z / T)) T^2` over the classes of `mask`, nats, `[batch]`.

    `T^2` keeps the gradient's scale (Hinton et al. 2015, section 2.1). The sum goes
    over classes, never the mean, so the scale does not depend on their number. In
    float32 the relative error is below 1e-3 for T from 0.01 to 1000.

    Args:
      logits: `z`, `[batch, classes]` (more axes in front are allowed).
      target_probs: `q`, of the same shape, zero outside of the mask; divided by its
        sum. Rows of zeros give 0.
      mask: bool, of the same shape, or None for all classes. Rows that are all False
        give 0.
      temperature: T, above 0.

    Returns:
      At least 0; +inf where q has mass on a class of probability 0 or outside of the
      mask.

    Raises:
      ValueError: shapes that differ, or a temperature that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import kl_to_target
      >>> logits, probs = jnp.array([[0.0, 0.0, 9.0]]), jnp.array([[0.9, 0.1, 0.0]])
      >>> kl_to_target(logits, probs, probs > 0).round(3).tolist()
      [0.368]
    """
    scores, probs = wide(logits), wide(target_probs)
    if scores.ndim == 0 or scores.shape[-1] == 0:
        raise ValueError(f"logits must be [batch, classes], got {describe(scores)}")
    if probs.shape != scores.shape:
        raise ValueError(
            f"target_probs must be {list(scores.shape)}, as the logits, got "
            f"{describe(probs)}"
        )
    if mask is not None:
        mask = jnp.asarray(mask)
        if mask.shape != scores.shape:
            raise ValueError(
                f"mask must be {list(scores.shape)}, as the logits, got "
                f"{describe(mask)}"
            )
        mask = mask.astype(bool)
    dtype = common_dtype(scores, probs)
    softness = checked_temperature("temperature", temperature, dtype)
    value = _divergence.divergence(
        scores.astype(dtype), probs.astype(dtype), mask, softness
    )
    return value * softness**2


def distillation(
    logits: Real[ArrayLike, "batch classes"],
    labels: Labels,
    target: SoftTarget,
    temperature: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, " batch"]:
    """`T^2 KL(q || p_T)` over the support of the target, nats, `[batch]`, at least 0.

    Hinton, Vinyals and Dean 2015, section 2; over the other classes it is the NCKD of
    Zhao et al., Decoupled Knowledge Distillation, CVPR 2022.

    Args:
      logits: `z`, `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`; the term of an ignored
        example is 0, whatever its target.
      target: q; with the support `"others"` both sides are restricted to them.
      temperature: T, above 0.

    Raises:
      ValueError: shapes that differ, a temperature that is not above 0, an unknown
        support, or labels that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import distillation
      >>> from introspect_jax.objectives.targets import teacher_target
      >>> logits, labels = jnp.array([[3.0, 1.0, 0.0]]), jnp.array([0])
      >>> target = teacher_target(jnp.array([[2.0, 2.0, 0.0]]), 4.0)
      >>> distillation(logits, labels, target, 4.0).round(3).tolist()
      [0.381]
    """
    scores = wide(matrix("logits", logits, (None, None)))
    batch, classes = scores.shape
    read = read_labels(labels, classes, batch)
    target = read_target(target, batch, classes)
    mask = read.others() if target.support == "others" else None
    value = kl_to_target(read.clean(scores), target.probs, mask, temperature)
    return read.guard(value)


def mutual_divergence(
    logits: Real[ArrayLike, "peers batch classes"],
    temperature: Real[ArrayLike, ""] = 1.0,
    labels: Labels | None = None,
) -> Float[Array, "peers batch"]:
    """The divergence of every peer from the others, nats, `[peers, batch]`, at least 0.

    `1 / (M - 1) sum_{j != i} T^2 KL(p_j || p_i)`, the other peers constant: Zhang et
    al., Deep Mutual Learning, CVPR 2018.

    Args:
      logits: `[peers, batch, classes]`, at least two peers.
      temperature: T, above 0; 1 in the paper.
      labels: ints `[batch]` or probabilities `[batch, classes]`, of which the ignored
        examples (-1 or a row of zeros) give 0; None where none is ignored.

    Raises:
      ValueError: logits of another shape, fewer than two peers, a temperature that is
        not above 0, labels of another batch, or labels that are refused by
        `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import mutual_divergence
      >>> logits = jnp.array([[[0.0, 0.0]], [[1.0, 0.0]]])
      >>> mutual_divergence(logits).round(3).tolist()
      [[0.111], [0.12]]
    """
    scores = wide(logits)
    if scores.ndim != 3 or scores.shape[2] == 0:
        raise ValueError(
            f"logits must be [peers, batch, classes], got {describe(scores)}"
        )
    peers, batch, classes = scores.shape
    if peers < 2:
        raise ValueError(f"mutual learning needs at least two peers, got {peers}")
    softness = checked_temperature("temperature", temperature, scores.dtype)
    read = None if labels is None else read_labels(labels, classes, batch)
    if read is not None:
        scores = jnp.where(read.labelled[None, :, None], scores, 0.0)
    probs = jax.lax.stop_gradient(_divergence.softmax(scores, None, softness))
    rows = []
    for i in range(peers):
        others = [
            _divergence.divergence(scores[i], probs[j], None, softness)
            for j in range(peers)
            if j != i
        ]
        row = jnp.sum(jnp.stack(others), axis=0) / (peers - 1) * softness**2
        rows.append(row if read is None else read.guard(row))
    return jnp.stack(rows)
