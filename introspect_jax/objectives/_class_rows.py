"""Targets that are a row of probabilities for each class."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives._checks import (
    check_class_count,
    checked_number,
    common_dtype,
    matrix,
)
from introspect_jax.objectives._divergence import softmax
from introspect_jax.objectives._labels import read_labels
from introspect_jax.objectives._statistics import EXACT


def smooth_by_similarity(
    labels: Labels,
    rows: Real[ArrayLike, "classes classes"],
    smoothing: Real[ArrayLike, ""],
) -> Float[Array, "batch classes"]:
    """`(1 - e) y + e s_y`, with `s_y` the row of class y, `[batch, classes]`.

    With rows of class similarities, Liu and JaJa, Class-Similarity Based Label
    Smoothing for Confidence Calibration, ICANN 2021 (arXiv 2006.14028); with the mean
    outputs for each class, online label smoothing (see `correct_sums`). With rows that
    are uniform it is label smoothing.

    Args:
      labels: ints `[batch]` or probabilities `[batch, classes]`, which mix the rows.
        The row of an ignored example is zero.
      rows: `s`, `[classes, classes]`; each sums to 1.
      smoothing: mass moved e, in [0, 1].

    Raises:
      ValueError: rows of another shape, smoothing out of range, one class, or labels
        that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import smooth_by_similarity
      >>> rows = jnp.array([[0.0, 0.75, 0.25], [0.5, 0.0, 0.5], [0.25, 0.75, 0.0]])
      >>> smooth_by_similarity(jnp.array([0]), rows, 0.2).round(2).tolist()
      [[0.8, 0.15, 0.05]]
    """
    similar = wide(matrix("rows", rows, (None, None)))
    classes = similar.shape[1]
    similar = matrix("rows", similar, (classes, classes))
    check_class_count(classes, 2)
    read = read_labels(labels, classes)
    dtype = common_dtype(read.probs, similar)
    probs = read.probs.astype(dtype)
    share = checked_number("smoothing", smoothing, dtype, 0.0, 1.0)
    spread = jnp.matmul(probs, similar.astype(dtype), precision=EXACT)
    return read.guard((1 - share) * probs + share * spread)


def correct_sums(
    logits: Real[ArrayLike, "batch classes"], labels: Labels
) -> Float[Array, "classes classes"]:
    """Sums of the probabilities of the correctly classified examples of each class.

    A row for each class, whose entries sum to the number of its examples. Over an
    epoch, and divided by that, the row is the soft label of Zhang et al., Delving Deep
    into Label Smoothing, 2021 (arXiv 2011.12562).

    Args:
      logits: `[batch, classes]`; they get no gradient.
      labels: ints `[batch]` or probabilities `[batch, classes]`, by which examples are
        weighted and whose largest entry is the class to be predicted. Ignored examples
        do not count. Under `jit` a class number that does not exist makes all sums NaN.

    Returns:
      `[classes, classes]`, rows of zeros for classes without such an example.

    Raises:
      ValueError: logits of another shape, labels of another batch, or labels that are
        refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import correct_sums
      >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.5, 0.5], [0.75, 0.25]]))
      >>> correct_sums(logits, jnp.array([0, 0, 1])).round(2).tolist()
      [[1.25, 0.75], [0.0, 0.0]]
    """
    scores = wide(matrix("logits", logits, (None, None)))
    batch, classes = scores.shape
    read = read_labels(labels, classes, batch)
    dtype = common_dtype(scores, read.probs)
    scores = jax.lax.stop_gradient(read.clean(scores))
    hits = jnp.argmax(scores, axis=-1) == jnp.argmax(read.probs, axis=-1)
    # NaN is to be seen in the result.
    counted = (hits & read.labelled) | ~read.valid
    weights = jnp.where(counted[:, None], read.probs, 0.0).astype(dtype)
    probs = softmax(scores, None).astype(dtype)
    return jnp.matmul(weights.T, probs, precision=EXACT)
