"""Targets that are made of the labels."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, nan_unless, wide
from introspect_jax.errors import unknown
from introspect_jax.objectives._checks import (
    check_class_count,
    checked_number,
    checked_temperature,
    common_dtype,
    describe,
    matrix,
)
from introspect_jax.objectives._divergence import above_zero, softmax
from introspect_jax.objectives._labels import ReadLabels, check_others, read_labels
from introspect_jax.objectives._soft_target import SoftTarget, label_made

SMOOTHINGS = ("uniform", "others")
VIRTUAL_TEACHERS = ("paper", "released")


def _default_dtype(*arrays: jax.Array) -> Any:
    """JAX's default precision, in which labels are calculated with, or wider."""
    return common_dtype(jnp.zeros((), float), *arrays)


def _read(labels: Any, classes: int) -> tuple[ReadLabels, jax.Array]:
    """The labels, and their probabilities in JAX's default precision or wider."""
    read = read_labels(labels, classes)
    return read, read.probs.astype(_default_dtype(read.probs))


def smooth_labels(
    labels: Labels,
    classes: int,
    epsilon: Real[ArrayLike, ""],
    spread: str = "uniform",
) -> Float[Array, "batch classes"]:
    """Label smoothing (Szegedy et al. 2016), `[batch, classes]`.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example (label -1, or a row of zeros) is zero.
      classes: K, at least 2.
      epsilon: mass moved, in [0, 1].
      spread: `"uniform"`: `(1 - e) y + e / K`, the paper's; `"others"`:
        `(1 - e) y + e / (K - 1) (1 - y)`, which many code bases use. Both are in use
        under one name, and differ by the factor `K / (K - 1)` in epsilon.

    Raises:
      ValueError: an unknown spread, epsilon out of range, one class, or labels that are
        refused by `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import smooth_labels
      >>> smooth_labels(jnp.array([1]), 4, 0.2)[0].round(2).tolist()
      [0.05, 0.85, 0.05, 0.05]
    """
    if spread not in SMOOTHINGS:
        raise ValueError(unknown("spread of the smoothing", spread, SMOOTHINGS))
    check_class_count(classes, 2)
    read, probs = _read(labels, classes)
    share = checked_number("epsilon", epsilon, probs.dtype, 0.0, 1.0)
    if spread == "uniform":
        smoothed = (1 - share) * probs + share / classes
    else:
        smoothed = (1 - share) * probs + share / (classes - 1) * (1 - probs)
    return read.guard(smoothed)


def label_target(labels: Labels, classes: int) -> SoftTarget:
    """The labels themselves as the target, `[batch, classes]`: nothing is softened.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example is zero, and degenerate.
      classes: their number.

    Raises:
      ValueError: labels that are refused by `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import label_target
      >>> label_target(jnp.array([1]), 3).probs.tolist()
      [[0.0, 1.0, 0.0]]
    """
    read = read_labels(labels, classes)
    return label_made(read.probs, read.labelled)


def uniform_others(labels: Labels, classes: int) -> SoftTarget:
    """`1 / (K - 1)` on every class but the label: no class is like another.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example is zero, and degenerate.
      classes: K, at least 3.

    Returns:
      A target with the support `"others"`; rows without other classes are zero.

    Raises:
      ValueError: fewer classes, see `similarity_target`, or labels that are refused by
        `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import uniform_others
      >>> uniform_others(jnp.array([1]), 3).probs.tolist()
      [[0.5, 0.0, 0.5]]
    """
    check_others(classes)
    read, probs = _read(labels, classes)
    others = read.others().astype(probs.dtype)
    count = jnp.sum(others, axis=-1, keepdims=True)
    probs = read.guard(others / jnp.maximum(count, 1.0))
    return SoftTarget(probs, count[:, 0] == 0, "others")


def virtual_teacher(
    labels: Labels,
    classes: int,
    *,
    correct: Real[ArrayLike, ""] = 0.99,
    temperature: Real[ArrayLike, ""] = 20.0,
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
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example is zero, and degenerate.
      classes: K, at least 2.
      correct: in (0, 1).
      temperature: T, above 0.
      form: `"paper"` or `"released"`.

    Raises:
      ValueError: an unknown form, `correct` or a temperature out of range, one class,
        or labels that are refused by `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import virtual_teacher
      >>> virtual_teacher(jnp.array([0]), 3).probs[0].round(3).tolist()
      [0.394, 0.303, 0.303]
    """
    if form not in VIRTUAL_TEACHERS:
        raise ValueError(unknown("form of the virtual teacher", form, VIRTUAL_TEACHERS))
    check_class_count(classes, 2)
    read, probs = _read(labels, classes)
    share = checked_number("correct", correct, probs.dtype, 0.0, 1.0, "()")
    softness = checked_temperature("temperature", temperature, probs.dtype)
    virtual = share * probs + (1 - share) / (classes - 1) * (1 - probs)
    scores = jnp.log(virtual) if form == "paper" else virtual
    return label_made(read.guard(softmax(scores, None, softness)), read.labelled)


def past_target(
    labels: Labels,
    past: Float[ArrayLike, "batch classes"],
    alpha: Real[ArrayLike, ""],
) -> SoftTarget:
    """`(1 - a) y + a p_past`, and `y` where there is no past, `[batch, classes]`.

    Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets, ICCV
    2021.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example is zero, and degenerate.
      past: the network's earlier probabilities for these examples,
        `[batch, classes]`; a row of zeros for an example it has not seen yet.
      alpha: a, in [0, 1].

    Raises:
      ValueError: a past of another shape, alpha out of range, or labels that are
        refused by `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import past_target
      >>> past = jnp.array([[0.5, 0.25, 0.25], [0.0, 0.0, 0.0]])
      >>> past_target(jnp.array([0, 1]), past, 0.4).probs.round(2).tolist()
      [[0.8, 0.1, 0.1], [0.0, 1.0, 0.0]]
    """
    past = wide(matrix("past", past, (None, None)))
    read = read_labels(labels, past.shape[1], batch=len(past))
    dtype = _default_dtype(read.probs, past)
    probs, past = read.probs.astype(dtype), past.astype(dtype)
    share = checked_number("alpha", alpha, dtype, 0.0, 1.0)
    # Not `past > 0`: NaN is to be seen in the result.
    known = jnp.any(past != 0, axis=-1, keepdims=True)
    mixed = (1 - share) * probs + share * jnp.where(known, past, probs)
    return label_made(read.guard(mixed), read.labelled)


def smooth_to_entropy(
    labels: Labels,
    classes: int,
    entropy: Real[ArrayLike, " batch"] | Real[ArrayLike, ""],
    *,
    halvings: int = 60,
) -> SoftTarget:
    """Label smoothing that has a given entropy, example by example.

    `(1 - e) y + e / (K - 1) (1 - y)` with e in [0, (K - 1) / K], over which the entropy
    grows from 0 to log K; e is determined by bisection. The target is as uncertain as
    a soft target of that entropy and has no information on which classes are alike,
    which makes it a control for that target.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`, for which the entropy
        starts at their own. The row of an ignored example is zero, and degenerate.
      classes: K, at least 2.
      entropy: nats, `[batch]` or one for all; below the least that can be reached e is
        0, above log K it is (K - 1) / K.
      halvings: number of bisection steps.

    Raises:
      ValueError: an entropy of another shape, one class, or labels that are refused by
        `as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import entropy
      >>> from introspect_jax.objectives.targets import smooth_to_entropy
      >>> target = smooth_to_entropy(jnp.array([0, 2]), 4, jnp.array([0.5, 1.0]))
      >>> entropy(target.probs).round(3).tolist()
      [0.5, 1.0]
    """
    check_class_count(classes, 2)
    read, probs = _read(labels, classes)
    wanted = jnp.asarray(entropy)
    if wanted.shape not in ((), (len(probs),)):
        raise ValueError(f"entropy must be [{len(probs)}], got {describe(wanted)}")
    wanted = jnp.broadcast_to(wanted.astype(probs.dtype), (len(probs),))

    def smoothed(epsilon: jax.Array) -> jax.Array:
        share = epsilon[:, None]
        return (1 - share) * probs + share / (classes - 1) * (1 - probs)

    def halve(
        _: jax.Array, bounds: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = (low + high) / 2
        mixed = smoothed(middle)
        logs = jnp.log(jnp.where(above_zero(mixed), mixed, 1.0))
        below = -jnp.sum(mixed * logs, axis=-1) < wanted
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    low = 0 * probs[:, 0]
    low, high = jax.lax.fori_loop(
        0, halvings, halve, (low, low + (classes - 1) / classes)
    )
    # A comparison with NaN is False, and would pass for an entropy of 0.
    known = nan_unless(~jnp.isnan(wanted), probs.dtype)
    matched = smoothed((low + high) / 2) + known[:, None]
    return label_made(read.guard(matched), read.labelled)
