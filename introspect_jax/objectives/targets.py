"""Soft targets."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown

SUPPORTS = ("others", "all")
SMOOTHINGS = ("uniform", "others")
VIRTUAL_TEACHERS = ("paper", "released")


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


def _exact(labels: jax.Array, classes: int) -> jax.Array:
    """Labels as probabilities to calculate with, in JAX's default precision."""
    probs = as_probs(labels, classes)
    return probs.astype(jnp.promote_types(probs.dtype, jnp.result_type(float)))


def other_classes(labels: jax.Array, classes: int) -> jax.Array:
    """Bool `[batch, classes]`: the classes on which the label has no mass."""
    return as_probs(labels, classes) == 0


def check_others(classes: int) -> None:
    """Raises a ValueError where a target over the other classes is always the same."""
    if classes <= 2:
        raise ValueError(
            "support='others' needs at least 3 classes: with "
            f"{classes} there is nothing to distribute; use support='all'"
        )


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
    probs = _exact(labels, classes)
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
    if support == "others":
        check_others(classes)
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


def label_target(labels: jax.Array, classes: int) -> SoftTarget:
    """The labels themselves as the target, `[batch, classes]`: nothing is softened.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: their number.
    """
    return whole_target(as_probs(labels, classes))


def whole_target(probs: jax.Array) -> SoftTarget:
    """Probabilities `[batch, classes]` as a target over all classes."""
    return SoftTarget(probs, jnp.zeros(len(probs), bool), "all")


def uniform_others(labels: jax.Array, classes: int) -> SoftTarget:
    """`1 / (K - 1)` on every class but the label: what knows nothing of classes.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: K, at least 3.

    Raises:
      ValueError: fewer classes, see `similarity_target`.
    """
    check_others(classes)
    others = other_classes(labels, classes)
    count = others.sum(-1, keepdims=True)
    return SoftTarget(others / jnp.maximum(count, 1), count[:, 0] == 0, "others")


def teacher_target(logits: jax.Array, temperature: float | jax.Array) -> SoftTarget:
    """`softmax(z_teacher / T)` over all classes, its gradient stopped.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.

    Args:
      logits: of the teacher, `[batch, classes]`.
      temperature: T, above 0.
    """
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    return whole_target(jax.lax.stop_gradient(jax.nn.softmax(wide / temperature)))


def virtual_teacher(
    labels: jax.Array,
    classes: int,
    *,
    correct: float = 0.99,
    temperature: float = 20.0,
    form: str = "paper",
) -> SoftTarget:
    """The hand-made teacher of Tf-KD reg, `[batch, classes]`.

    With `u` = `correct` at the label and `(1 - correct) / (K - 1)` elsewhere, Yuan et
    al., Revisiting Knowledge Distillation via Label Smoothing Regularization, CVPR
    2020:

    * form `"paper"`: `u` softened as a teacher's probabilities are,
      `softmax(log(u) / T)`;
    * form `"released"`: `softmax(u / T)`, of probabilities instead of logits, as in the
      code of the paper: uniform to about three decimals at T = 20.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      classes: K, at least 2.
      correct: in (0, 1).
      temperature: T, above 0.
      form: `"paper"` or `"released"`.

    Raises:
      ValueError: unknown form.
    """
    if form not in VIRTUAL_TEACHERS:
        raise ValueError(unknown("form of the virtual teacher", form, VIRTUAL_TEACHERS))
    probs = _exact(labels, classes)
    virtual = correct * probs + (1 - correct) / (classes - 1) * (1 - probs)
    scores = jnp.log(virtual) if form == "paper" else virtual
    return whole_target(jax.nn.softmax(scores / temperature))


def past_target(
    labels: jax.Array, past: jax.Array, alpha: float | jax.Array
) -> SoftTarget:
    """`(1 - a) y + a p_past`, and `y` where there is no past, `[batch, classes]`.

    Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets, ICCV
    2021.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      past: what the network said of these examples, `[batch, classes]`; a row of zeros
        where it has not seen one yet.
      alpha: a, in [0, 1].
    """
    probs = _exact(labels, past.shape[-1])
    known = jnp.any(past > 0, axis=-1, keepdims=True)
    mixed = (1 - alpha) * probs + alpha * jnp.where(known, past, probs)
    return whole_target(mixed)


def entropy_matched(
    labels: jax.Array, classes: int, entropy: jax.Array, *, halvings: int = 60
) -> SoftTarget:
    """Label smoothing that has a given entropy, example by example.

    `(1 - e) y + e / (K - 1) (1 - y)` with e in [0, (K - 1) / K], over which the entropy
    grows from 0 to log K; found by halving. It says how sure to be, and nothing of
    which classes are alike: the control for a soft target of that entropy.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`, for which the entropy
        starts at their own.
      classes: K, at least 2.
      entropy: nats, `[batch]`.
      halvings: of the interval.
    """
    probs = _exact(labels, classes)
    wanted = jnp.broadcast_to(entropy, (len(probs),))

    def smoothed(epsilon: jax.Array) -> jax.Array:
        share = epsilon[:, None]
        return (1 - share) * probs + share / (classes - 1) * (1 - probs)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]):
        low, high = bounds
        middle = (low + high) / 2
        found = smoothed(middle)
        logs = jnp.log(jnp.where(found > 0, found, 1.0))
        below = -jnp.sum(found * logs, axis=-1) < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low = 0 * probs[:, 0]
    low, high = jax.lax.fori_loop(
        0, halvings, halve, (low, low + (classes - 1) / classes)
    )
    return whole_target(smoothed((low + high) / 2))
