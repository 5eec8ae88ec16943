"""Rank agreement between class similarities and soft responses.

Agreement is measured within examples, between class means, and for the part specific to
each example, optionally controlling for a known array such as the network's outputs.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from introspect_jax.arrays import UNLABELLED, check_classes, is_integer, one_hot, wide
from introspect_jax.explain.placement import is_sharded


def rank_agreement(
    similarities: Float[ArrayLike, "examples classes"],
    responses: Float[ArrayLike, "examples classes"],
    labels: Integer[ArrayLike, " examples"],
) -> dict[str, Array]:
    """Spearman correlation of similarities and soft responses over the other classes.

    Args:
      similarities: Class similarities, as from `class_similarity`,
        `[examples, classes]`.
      responses: Soft responses, e.g. a teacher's probabilities or logits,
        `[examples, classes]`.
      labels: Ints `[examples]`, -1 for no label. The label's class is left out of each
        row.

    Returns:
      A dict of correlations. `example`: `[examples]`, within each example. `class`:
      `[classes]`, between the means over the examples of each class; NaN for classes
      without examples. `instance`: `[examples]`, within each example after subtracting
      the class means from both arrays, which leaves the part specific to the example;
      NaN if that part vanishes. `example` and `instance` are NaN for examples without a
      label.

    Raises:
      ValueError: Arrays of different or wrong shapes, or a class out of range.

    Example:
      >>> import jax.numpy as jnp
      >>> similarities = jnp.array([[1.0, 0.2, 0.1, 0.4], [1.0, 0.3, 0.2, 0.1]])
      >>> responses = jnp.array([[0.7, 0.1, 0.0, 0.2], [0.7, 0.0, 0.1, 0.2]])
      >>> rank_agreement(similarities, responses, jnp.array([0, 0]))["example"]
      Array([ 1., -1.], dtype=float32)
    """
    ours, theirs, labels = _checked(labels, similarities, responses)
    means = [_class_means(values, labels) for values in (ours, theirs)]
    classes = jnp.arange(ours.shape[1])
    return {
        "example": spearman(_others(ours, labels), _others(theirs, labels)),
        "class": spearman(*(_others(mean, classes) for mean in means)),
        "instance": spearman(
            _instance_part(ours, labels), _instance_part(theirs, labels)
        ),
    }


def agreement_beyond(
    similarities: Float[ArrayLike, "examples classes"],
    responses: Float[ArrayLike, "examples classes"],
    known: Float[ArrayLike, "examples classes"],
    labels: Integer[ArrayLike, " examples"],
) -> Float[Array, " examples"]:
    """Partial rank correlation of similarities and responses, controlling for `known`.

    `(r_sr - r_sk r_rk) / sqrt((1 - r_sk^2) (1 - r_rk^2))` with Spearman correlations r
    within each example, of the parts specific to the example (class means subtracted).

    Args:
      similarities: Class similarities, `[examples, classes]`.
      responses: Soft responses of a teacher, `[examples, classes]`.
      known: Array to control for, e.g. the network's own logits, `[examples, classes]`.
      labels: Ints `[examples]`, -1 for no label. The label's class is left out of each
        row.

    Returns:
      `[examples]`, in [-1, 1]. NaN if a specific part is constant, if `known` has the
      same or the reverse ranks as one of the other arrays, or without a label.

    Raises:
      ValueError: Arrays of different or wrong shapes, or a class out of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> a, b, c = jax.random.normal(jax.random.key(0), (3, 6, 5))
      >>> agreement_beyond(a, b, c, jnp.array([0, 1, 2, 0, 1, 2])).shape
      (6,)
    """
    *arrays, labels = _checked(labels, similarities, responses, known)
    ours, theirs, own = (_instance_part(values, labels) for values in arrays)
    both, given_ours, given_theirs = (
        spearman(ours, theirs),
        spearman(ours, own),
        spearman(theirs, own),
    )
    left = (1 - given_ours**2) * (1 - given_theirs**2)
    # Values at rounding level count as 0 and give NaN.
    scale = jnp.sqrt(jnp.where(left > 1e-6, left, jnp.nan))
    return (both - given_ours * given_theirs) / scale


def spearman(
    a: Float[ArrayLike, "rows n"], b: Float[ArrayLike, "rows n"]
) -> Float[Array, " rows"]:
    """Spearman's rank correlation of the rows of two arrays; ties get their mean rank.

    Args:
      a: Array `[rows, n]`.
      b: Array `[rows, n]`.

    Returns:
      `[rows]`; NaN if a row is constant or contains NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> spearman(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[10.0, 30.0, 20.0]]))
      Array([0.5], dtype=float32)
    """
    a, b = _centred_ranks(a), _centred_ranks(b)
    scale = jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return (a * b).sum(-1) / scale


def _checked(labels: Any, first: Any, *others: Any) -> list[Array]:
    """Returns the arrays in float32 or wider, followed by the labels.

    Raises:
      ValueError: Arrays of different or wrong shapes, or a class out of range.
    """
    arrays = [_everywhere(wide(values)) for values in (first, *others)]
    labels, shape = _everywhere(jnp.asarray(labels)), arrays[0].shape
    for values in arrays:
        if values.ndim != 2 or values.shape != shape:
            raise ValueError(
                "similarities and responses must be [examples, classes], all of one "
                f"shape, got {', '.join(str(list(v.shape)) for v in arrays)}"
            )
    if labels.shape != shape[:1] or not is_integer(labels):
        raise ValueError(
            f"labels must be ints [{shape[0]}], got {labels.dtype}{list(labels.shape)}"
        )
    check_classes(labels, shape[1])
    return [*arrays, labels]


def _everywhere(values: Array) -> Array:
    """Replicates the values on every device of an explicit mesh.

    Ranks require indexing, and class means require examples from all devices.
    """
    if not is_sharded(values):
        return values
    sharding: Any = jax.sharding
    mesh = jax.typeof(values).sharding.mesh
    replicated = sharding.NamedSharding(mesh, sharding.PartitionSpec())
    gathered: Array = sharding.reshard(values, replicated)
    return gathered


def _others(values: Array, labels: Array) -> Float[Array, "rows others"]:
    """Rows without the entry of their label; the other classes keep their order."""
    numbers = jnp.arange(values.shape[1] - 1, dtype=jnp.int32)[None]
    own = labels.astype(jnp.int32)[:, None]
    others = numbers + (numbers >= own).astype(jnp.int32)
    rows = jnp.take_along_axis(values, others, axis=1)
    return jnp.where(own == UNLABELLED, jnp.nan, rows)


def _class_means(values: Array, labels: Array) -> Float[Array, "classes classes"]:
    """Mean row over the examples of each class; NaN for a class without examples."""
    rows = one_hot(labels, values.shape[1], values.dtype)
    sums = jnp.matmul(rows.T, values, precision=jax.lax.Precision.HIGHEST)
    return sums / rows.sum(0)[:, None]


def _instance_part(values: Array, labels: Array) -> Float[Array, "examples others"]:
    """Rows minus their class mean, without the entry of their label."""
    classes = values.shape[1]
    rows = one_hot(labels, classes, values.dtype)
    means = _class_means(values, labels)
    # A product instead of indexing, which sharded arrays do not support.
    seen = jnp.where(rows.sum(0)[:, None] > 0, means, 0.0)
    own = jnp.matmul(rows, seen, precision=jax.lax.Precision.HIGHEST)
    left = _others(values - own, labels)
    # If all rows of a class are equal, the differences are only rounding errors.
    noise = 1e-5 * jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    rounding = jnp.max(jnp.abs(left), -1, keepdims=True) <= noise
    return jnp.where(rounding, 0.0, left)


def _centred_ranks(values: Any) -> Float[Array, "rows n"]:
    # Imported here because it imports `scipy.stats`, which is slow.
    from jax.scipy.stats import rankdata

    ranks: Array = rankdata(_everywhere(jnp.asarray(values)), axis=-1)
    return ranks - ranks.mean(-1, keepdims=True)
