"""Soft targets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown

SUPPORTS = ("others", "all")
SMOOTHINGS = ("uniform", "others")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["probs", "degenerate"],
    meta_fields=["support"],
)
@dataclasses.dataclass(frozen=True)
class SoftTarget:
    """What the outputs should be, beside the label.

    Attributes:
      probs: `[batch, classes]`, each row sums to 1 over its support.
      degenerate: bool `[batch]`, the examples whose explanations said nothing, so that
        their row is uniform over the support.
      support: `"others"` (the label has no mass and the outputs are compared on the
        other classes only) or `"all"`.
    """

    probs: jax.Array
    degenerate: jax.Array
    support: str


def as_probs(labels: jax.Array, classes: int) -> jax.Array:
    """Labels as probabilities `[batch, classes]`, float32 or wider.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: their number.

    Raises:
      ValueError: another shape.
    """
    labels = jnp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer) and labels.ndim == 1:
        return jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels.astype(jnp.promote_types(labels.dtype, jnp.float32))
    raise ValueError(
        f"labels must be ints [batch] or probabilities [batch, {classes}], got "
        f"{labels.dtype}{list(labels.shape)}"
    )


def other_classes(labels: jax.Array, classes: int) -> jax.Array:
    """Bool `[batch, classes]`: the classes on which the label has no mass."""
    return as_probs(labels, classes) == 0


def smooth_labels(
    labels: jax.Array, classes: int, epsilon: float, spread: str = "uniform"
) -> jax.Array:
    """Label smoothing (Szegedy et al. 2016), `[batch, classes]`.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: K, at least 2.
      epsilon: mass moved, in [0, 1].
      spread: `"uniform"`: `(1 - e) y + e / K`, the paper's; `"others"`:
        `(1 - e) y + e / (K - 1) (1 - y)`, which many code bases use. Both are in use
        under one name, and differ by the factor `K / (K - 1)` in epsilon.

    Raises:
      ValueError: unknown spread.
    """
    probs = as_probs(labels, classes)
    if spread == "uniform":
        return (1 - epsilon) * probs + epsilon / classes
    if spread == "others":
        return (1 - epsilon) * probs + epsilon / (classes - 1) * (1 - probs)
    raise ValueError(unknown("spread of the smoothing", spread, SMOOTHINGS))


def similarity_target(
    similarities: jax.Array,
    labels: jax.Array,
    *,
    temperature: float | jax.Array = 0.5,
    support: str = "others",
) -> SoftTarget:
    """`softmax(similarities / temperature)` over the support.

    Args:
      similarities: `[batch, classes]`; a row of zeros says that they are unknown.
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      temperature: above 0.
      support: `"others"` or `"all"`. A soft label that leaves no class without mass
        has an empty support: its row is zeros, and marked degenerate.

    Returns:
      The `SoftTarget`.

    Raises:
      ValueError: unknown support, or two classes with `"others"`, where the one class
        that is left would always get probability 1 and the loss would be zero.
    """
    classes = similarities.shape[-1]
    if support not in SUPPORTS:
        raise ValueError(unknown("support", support, SUPPORTS))
    if isinstance(temperature, int | float) and temperature <= 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    if support == "others" and classes <= 2:
        raise ValueError(
            "support='others' needs at least 3 classes: with "
            f"{classes} there is nothing to distribute; use support='all'"
        )
    if support == "all":
        mask = jnp.ones(similarities.shape, bool)
    else:
        mask = other_classes(labels, classes)
    dtype = jnp.promote_types(similarities.dtype, jnp.float32)
    scores = similarities.astype(dtype) / temperature
    # The largest is taken off and the rest normalised by hand: an empty row stays zero.
    top = jnp.max(scores, axis=-1, keepdims=True, where=mask, initial=-jnp.inf)
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    weights = jnp.where(mask, jnp.exp(jnp.where(mask, scores - top, 0.0)), 0.0)
    total = weights.sum(-1, keepdims=True)
    probs = weights / jnp.where(total > 0, total, 1.0)
    degenerate = jnp.all(similarities == 0, axis=-1) | ~jnp.any(mask, axis=-1)
    return SoftTarget(probs, degenerate, support)
