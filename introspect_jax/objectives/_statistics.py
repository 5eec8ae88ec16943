"""Statistics of soft targets over a batch, by which components are made."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives._checks import (
    checked_number,
    common_dtype,
    matrix,
)
from introspect_jax.objectives._labels import read_labels

# By default accelerators multiply in fewer bits, and rows would not sum to 1.
EXACT = jax.lax.Precision.HIGHEST


def confidence_weights(
    probs: Real[ArrayLike, "batch classes"], labels: Labels | None = None
) -> Float[Array, " batch"]:
    """`N max_k q_sk / sum_u max_k q_uk`, `[batch]`, with mean 1, above 0.

    Furlanello et al. 2018, who sum over the batch and have no N.

    Args:
      probs: `[batch, classes]`; rows of zeros are ignored examples.
      labels: ints `[batch]` or probabilities `[batch, classes]`, of which the ignored
        examples (-1 or a row of zeros) get the weight 0 and do not count in N or the
        sum; None where the rows of `probs` tell.

    Raises:
      ValueError: probs of another shape, labels of another batch or number of classes,
        or labels that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import confidence_weights
      >>> probs = jnp.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]])
      >>> confidence_weights(probs, jnp.array([0, -1, 1])).round(2).tolist()
      [1.2, 0.0, 0.8]
    """
    rows = wide(matrix("probs", probs, (None, None)))
    largest = jnp.max(rows, axis=-1)
    read = None if labels is None else read_labels(labels, rows.shape[1], len(rows))
    counted = jnp.any(rows != 0, axis=-1)
    if read is not None:
        # Invalid rows become NaN below, and leave the others as they are.
        counted = counted & read.labelled & read.valid
    largest = jnp.where(counted, largest, 0.0)
    total = jnp.sum(largest)
    weights = largest * jnp.sum(counted, dtype=rows.dtype)
    weights = weights / jnp.where(jnp.any(counted), total, 1.0)
    return weights if read is None else read.guard(weights)


def update_class_means(
    means: Real[ArrayLike, "classes classes"],
    probs: Real[ArrayLike, "batch classes"],
    labels: Labels,
    decay: Real[ArrayLike, ""],
) -> Float[Array, "classes classes"]:
    """Running mean of the probabilities (or similarities) of each class.

    Args:
      means: `[classes, classes]`, before; rows of zeros for classes not seen yet, which
        start at the mean of this batch.
      probs: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`, by which examples are
        weighted; ignored examples have no weight. Under `jit` a class number that does
        not exist makes all means NaN.
      decay: what remains of the row of a class that has an example or more in the
        batch, in [0, 1]; rows of other classes do not change.

    Returns:
      `[classes, classes]`.

    Raises:
      ValueError: shapes that differ, decay out of range, or labels that are refused by
        `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import update_class_means
      >>> probs = jnp.array([[0.6, 0.4], [0.8, 0.2]])
      >>> update_class_means(jnp.eye(2), probs, jnp.array([0, 0]), 0.5).tolist()
      [[0.85, 0.15], [0.0, 1.0]]
    """
    before = wide(matrix("means", means, (None, None)))
    classes = before.shape[1]
    before = matrix("means", before, (classes, classes))
    rows = wide(matrix("probs", probs, (None, classes)))
    read = read_labels(labels, classes, len(rows))
    dtype = common_dtype(before, rows, read.probs)
    before, rows = before.astype(dtype), rows.astype(dtype)
    label_probs = read.probs.astype(dtype)
    remaining = checked_number("decay", decay, dtype, 0.0, 1.0)
    # A row that no label counts may hold anything, and zero times NaN is NaN.
    rows = jnp.where(read.labelled[:, None], rows, 0.0)
    counts = jnp.sum(label_probs, axis=0)[:, None]
    sums = jnp.matmul(label_probs.T, rows, precision=EXACT)
    latest = sums / jnp.where(counts > 0, counts, 1.0)
    unseen = ~jnp.any(before != 0, axis=-1, keepdims=True)
    # A class of which there is but a share (mixup) moves by that share.
    kept = remaining ** jnp.minimum(counts, 1.0)
    mixed = jnp.where(unseen, latest, kept * before + (1 - kept) * latest)
    # Not `counts > 0`: NaN is to be seen in the result.
    return jnp.where(counts != 0, mixed, before)
