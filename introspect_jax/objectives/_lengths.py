"""Squared lengths of derivatives with respect to the input; see `losses`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives._checks import describe
from introspect_jax.objectives._labels import read_labels


def squared_length(values: Real[ArrayLike, "..."]) -> Float[Array, " batch"]:
    """Sum of the squares of the values of an example, `[batch]`, at least 0.

    Of the gradient of the cross entropy with respect to the images it is the penalty of
    Drucker and LeCun, Improving Generalization Performance Using Double
    Backpropagation, 1992.

    Args:
      values: `[batch, ...]`, such as gradients `[batch, h, w, c]`.

    Raises:
      ValueError: values without a batch axis.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import squared_length
      >>> squared_length(jnp.array([[[3.0], [4.0]], [[0.0], [1.0]]])).tolist()
      [25.0, 1.0]
    """
    array = wide(values)
    if array.ndim == 0:
        raise ValueError(f"values must be [batch, ...], got {describe(array)}")
    return jnp.sum(array**2, axis=tuple(range(1, array.ndim)))


def squared_jacobian(
    pull: Callable[[jax.Array], jax.Array],
    directions: Float[Array, "directions batch classes"],
    labels: Labels | None = None,
) -> Float[Array, " batch"]:
    """`K / n sum_v |v^T J|^2` of n unit vectors v, `[batch]`, at least 0.

    J is the Jacobian `dz / dx` of the K logits. With the rows of the identity for v it
    is the squared Frobenius norm of J; with vectors that are uniform on the unit
    sphere, it has that mean: Hoffman, Roberts and Yaida, Robust Learning with Jacobian
    Regularization, 2019 (arXiv 1908.02729).

    If the logits of an example depend on other examples of the batch (batch statistics
    in train mode), the derivative with respect to its image is that of `v^T z` summed
    over the batch. With random vectors that are independent and have the mean 0, the
    mean is the sum over the examples j of `|dz_j / dx_i|^2`; the rows of the identity
    need random signs for that.

    Args:
      pull: Function from cotangents `[batch, classes]` to those of the inputs
        `[batch, ...]`: the pullback of the logits, of `jax.vjp`.
      directions: v, one for each example, all used at once (`jax.vmap`).
      labels: ints `[batch]` or probabilities `[batch, classes]`, of which the ignored
        examples (-1 or a row of zeros) give 0; None where none is ignored.

    Raises:
      ValueError: directions of another shape, or labels of another batch.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import squared_jacobian
      >>> kernel = jnp.array([[1.0, 2.0], [0.0, 3.0]])
      >>> _, pull = jax.vjp(lambda x: x @ kernel, jnp.zeros((1, 2)))
      >>> squared_jacobian(lambda v: pull(v)[0], jnp.eye(2)[:, None]).tolist()
      [14.0]
    """
    vectors = jnp.asarray(directions)
    if vectors.ndim != 3 or 0 in (vectors.shape[0], vectors.shape[2]):
        raise ValueError(
            f"directions must be [directions, batch, classes], got {describe(vectors)}"
        )
    _, batch, classes = vectors.shape
    if labels is None:
        return _mean_square(pull, vectors) * classes
    read = read_labels(labels, classes, batch)
    # Not even by way of the batch statistics does an ignored example count.
    vectors = jnp.where(read.labelled[None, :, None], vectors, 0)
    return read.guard(_mean_square(pull, vectors) * classes)


def _mean_square(
    pull: Callable[[jax.Array], jax.Array], vectors: jax.Array
) -> jax.Array:
    """Mean over the first axis of `|v^T J|^2`, `[batch]`."""
    return jnp.mean(jax.vmap(lambda v: squared_length(pull(v)))(vectors), axis=0)
