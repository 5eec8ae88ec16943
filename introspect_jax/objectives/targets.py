"""Soft targets.

An example with the label -1, or with a label of zeros, is ignored: targets made of it
are rows of zeros, and every loss of such a row is 0.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives._checks import checked_temperature, matrix
from introspect_jax.objectives._class_rows import correct_sums, smooth_by_similarity
from introspect_jax.objectives._divergence import softmax
from introspect_jax.objectives._label_targets import (
    SMOOTHINGS,
    VIRTUAL_TEACHERS,
    label_target,
    past_target,
    smooth_labels,
    smooth_to_entropy,
    uniform_others,
    virtual_teacher,
)
from introspect_jax.objectives._labels import (
    as_probs,
    check_others,
    other_classes,
    read_labels,
)
from introspect_jax.objectives._matched import Matched, matched_temperature
from introspect_jax.objectives._soft_target import (
    SUPPORTS,
    SoftTarget,
    check_support,
    support_mask,
    whole_target,
)

__all__ = [
    "SMOOTHINGS",
    "SUPPORTS",
    "VIRTUAL_TEACHERS",
    "Matched",
    "SoftTarget",
    "as_probs",
    "check_others",
    "correct_sums",
    "label_target",
    "matched_temperature",
    "other_classes",
    "past_target",
    "similarity_target",
    "smooth_by_similarity",
    "smooth_labels",
    "smooth_to_entropy",
    "teacher_target",
    "uniform_others",
    "virtual_teacher",
    "whole_target",
]


def similarity_target(
    similarities: Real[ArrayLike, "batch classes"],
    labels: Labels,
    *,
    temperature: Real[ArrayLike, ""] | Real[ArrayLike, " batch"] = 0.5,
    support: str = "others",
) -> SoftTarget:
    """`softmax(similarities / temperature)` over the support.

    Args:
      similarities: `[batch, classes]`; a row of zeros says that they are unknown, -inf
        that a class gets no mass.
      labels: ints `[batch]` or probabilities `[batch, classes]`; the row of an ignored
        example is zero, and degenerate.
      temperature: above 0; one for all, or `[batch]`, as of `matched_temperature`.
      support: `"others"` or `"all"`. A soft label that leaves no other class
        (`other_classes`) has an empty support: its row is zero, and degenerate.

    Returns:
      The `SoftTarget`.

    Raises:
      ValueError: an unknown support, a temperature that is not above 0, labels of
        another batch, labels that are refused by `as_probs`, or two classes with
        `"others"`, where the one class that is left would always get probability 1 and
        the loss would be zero.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import similarity_target
      >>> similarities = jnp.array([[1.0, 0.5, 0.0, 0.0]])
      >>> similarity_target(similarities, jnp.array([0])).probs[0].round(3).tolist()
      [0.0, 0.576, 0.212, 0.212]
    """
    scores = wide(matrix("similarities", similarities, (None, None)))
    batch, classes = scores.shape
    check_support(support, classes)
    softness = checked_temperature("temperature", temperature, scores.dtype, batch)
    read = read_labels(labels, classes, batch)
    mask = support_mask(read, support)
    probs = read.guard(softmax(scores, mask, softness))
    unknown_scores = jnp.all(scores == 0, axis=-1)
    empty = ~jnp.any(mask & (scores != -jnp.inf), axis=-1)
    return SoftTarget(probs, unknown_scores | empty, support)


def teacher_target(
    logits: Real[ArrayLike, "batch classes"], temperature: Real[ArrayLike, ""]
) -> SoftTarget:
    """`softmax(z_teacher / T)` over all classes, its gradient stopped.

    Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015.

    Args:
      logits: of the teacher, `[batch, classes]`; -inf for a class without mass.
      temperature: T, above 0.

    Raises:
      ValueError: logits of another shape, or a temperature that is not above 0.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import teacher_target
      >>> teacher_target(jnp.array([[2.0, 0.0, 0.0]]), 2.0).probs[0].round(3).tolist()
      [0.576, 0.212, 0.212]
    """
    scores = wide(matrix("logits", logits, (None, None)))
    softness = checked_temperature("temperature", temperature, scores.dtype)
    return whole_target(jax.lax.stop_gradient(softmax(scores, None, softness)))
