"""Branches of one network, and the ensemble that teaches them."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives._checks import (
    checked_number,
    checked_temperature,
    common_dtype,
    describe,
)
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    distillation,
)
from introspect_jax.objectives.targets import teacher_target

__all__ = ["ensemble_loss", "gated_ensemble"]


def gated_ensemble(
    logits: Real[ArrayLike, "branches batch classes"],
    gates: Real[ArrayLike, "batch branches"],
) -> Float[Array, "batch classes"]:
    """`sum_i g_i z_i`, the logits of the ensemble, `[batch, classes]`.

    Args:
      logits: z, `[branches, batch, classes]`; -inf for a class of probability 0, which
        then it is for the ensemble too.
      gates: g, `[batch, branches]`, rows that sum to 1.

    Raises:
      ValueError: logits or gates of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.ensembles import gated_ensemble
      >>> logits = jnp.array([[[4.0, 0.0]], [[0.0, 8.0]]])
      >>> gated_ensemble(logits, jnp.array([[0.25, 0.75]])).tolist()
      [[1.0, 6.0]]
    """
    scores, weights = wide(logits), wide(gates)
    if scores.ndim != 3 or scores.shape[2] == 0:
        raise ValueError(
            f"logits must be [branches, batch, classes], got {describe(scores)}"
        )
    branches, batch, _ = scores.shape
    if weights.shape != (batch, branches):
        raise ValueError(
            f"gates must be {[batch, branches]}, [batch, branches] of the logits, got "
            f"{describe(weights)}"
        )
    dtype = common_dtype(scores, weights)
    kept = scores != -jnp.inf
    mean = jnp.einsum(
        "mbk,bm->bk",
        jnp.where(kept, scores, 0.0).astype(dtype),
        weights.astype(dtype),
        precision=jax.lax.Precision.HIGHEST,
    )
    return jnp.where(jnp.all(kept, axis=0), mean, -jnp.inf)


def ensemble_loss(
    logits: Real[ArrayLike, "branches batch classes"],
    gates: Real[ArrayLike, "batch branches"],
    labels: Labels,
    *,
    weight: Real[ArrayLike, ""] = 1.0,
    temperature: Real[ArrayLike, ""] = 3.0,
) -> tuple[Float[Array, " batch"], dict[str, Float[Array, " batch"]]]:
    """Branches that learn from labels and from their gated ensemble, per example.

    `sum_i CE(y, p_i) + CE(y, p_e) + w T^2 sum_i KL(p_e,T || p_i,T)`, where `z_e` is
    `gated_ensemble` and constant in the last term. Lan, Zhu and Gong, Knowledge
    Distillation by On-the-Fly Native Ensemble, NeurIPS 2018 (arXiv 1806.04606). With
    one branch, whose gate is 1, it is twice the cross entropy.

    Args:
      logits: `[branches, batch, classes]`.
      gates: `[batch, branches]`, rows that sum to 1.
      labels: ints `[batch]` or probabilities `[batch, classes]`; -1 or a row of zeros
        for an ignored example, whose loss is 0.
      weight: w, at least 0.
      temperature: T, above 0.

    Returns:
      The loss `[batch]` in nats, and metrics, each `[batch]`: `cross_entropy` and
      `distillation` (`T^2 KL`) of the first branch, `ensemble_cross_entropy`, and those
      of `describe_target` for the ensemble's outputs at the temperature.

    Raises:
      ValueError: shapes that differ, a weight or temperature out of range, or labels
        that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.ensembles import ensemble_loss
      >>> logits = jnp.array([[[2.0, 0.0]], [[0.0, 0.0]]])
      >>> gates = jnp.array([[0.5, 0.5]])
      >>> loss, metrics = ensemble_loss(logits, gates, jnp.array([0]))
      >>> loss.round(3).tolist(), metrics["ensemble_cross_entropy"].round(3).tolist()
      ([1.375], [0.313])
    """
    scores = wide(logits)
    together = gated_ensemble(scores, gates)
    softness = checked_temperature("temperature", temperature, together.dtype)
    share = checked_number("weight", weight, together.dtype, 0.0, float("inf"), "[)")
    target = teacher_target(together, softness)
    hard = [cross_entropy(z, labels) for z in scores]
    soft = [distillation(z, labels, target, softness) for z in scores]
    ensemble = cross_entropy(together, labels)
    return sum(hard) + ensemble + share * sum(soft), {
        "cross_entropy": hard[0],
        "distillation": soft[0],
        "ensemble_cross_entropy": ensemble,
        **describe_target(target, labels),
    }
