"""Rank agreement between class similarities and soft responses.

Agreement is measured within examples, between class means, and for the part specific to
each example, optionally controlling for a known array such as the network's outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from introspect_jax.arrays import UNLABELLED, check_classes, is_integer, one_hot, wide
from introspect_jax.explain.placement import is_sharded

# Shares of squared ranks below this are rounding errors.
_LEAST = 1e-6


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
    return {
        name: spearman(part(ours, labels), part(theirs, labels))
        for name, part in _PARTS.items()
    }


def agreement_beyond(
    similarities: Float[ArrayLike, "examples classes"],
    responses: Float[ArrayLike, "examples classes"],
    known: Float[ArrayLike, "examples classes"]
    | Sequence[Float[ArrayLike, "examples classes"]],
    labels: Integer[ArrayLike, " examples"],
    part: str = "instance",
) -> Float[Array, " rows"]:
    """Partial rank correlation of similarities and responses, controlling for `known`.

    See `partial_spearman`; the rows are those that `rank_agreement` compares.

    Args:
      similarities: Class similarities, `[examples, classes]`.
      responses: Soft responses of a teacher, `[examples, classes]`.
      known: Array to control for, e.g. the network's own logits, `[examples, classes]`,
        or a list of several.
      labels: Ints `[examples]`, -1 for no label. The label's class is left out of each
        row.
      part: A name in the result of `rank_agreement`: `"example"`, `"class"` or
        `"instance"`. Arrays that are the same for all examples of a class, like weight
        rows, have no instance part and control for nothing there.

    Returns:
      `[examples]`, for `"class"` `[classes]`, in [-1, 1]. NaN if the part of one of the
      two arrays is constant or has ranks that are a linear function of those of
      `known`, or without a label.

    Raises:
      ValueError: An unknown part, arrays of different or wrong shapes, or a class out
        of range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> a, b, c = jax.random.normal(jax.random.key(0), (3, 6, 5))
      >>> agreement_beyond(a, b, c, jnp.array([0, 1, 2, 0, 1, 2])).shape
      (6,)
    """
    if part not in _PARTS:
        raise ValueError(f"part must be one of {', '.join(_PARTS)}, got {part!r}")
    several = known if isinstance(known, list | tuple) else [known]
    *arrays, labels = _checked(labels, similarities, responses, *several)
    return partial_spearman(*(_PARTS[part](values, labels) for values in arrays))


def partial_spearman(
    a: Float[ArrayLike, "rows n"],
    b: Float[ArrayLike, "rows n"],
    *known: Float[ArrayLike, "rows n"],
) -> Float[Array, " rows"]:
    """Spearman's rank correlation of the rows of two arrays, controlling for others.

    The correlation of what a linear regression on the ranks of `known` leaves of the
    ranks; for one array, with rank correlations r,
    `(r_ab - r_ak r_bk) / sqrt((1 - r_ak^2) (1 - r_bk^2))`.

    Args:
      a: Array `[rows, n]`.
      b: Array `[rows, n]`.
      *known: Arrays `[rows, n]` to control for; constant rows control for nothing.

    Returns:
      `[rows]`; NaN if a row of `a` or `b` is constant or a linear function of the ranks
      of `known`, or if a row contains NaN.

    Example:
      >>> import jax.numpy as jnp
      >>> a, b = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[2.0, 1.0, 4.0, 3.0]])
      >>> partial_spearman(a, b, jnp.array([[1.0, 2.0, 4.0, 3.0]]))
      Array([-0.111], dtype=float32)
    """
    rows = [_centred_ranks(values) for values in (a, b, *known)]
    sizes = [jnp.sum(ranks**2, axis=-1) for ranks in rows]
    while len(rows) > 2:
        # Removed from the other known arrays too, so they can follow one by one.
        *rows, last = rows
        size = jnp.sum(last**2, axis=-1)
        nothing = size <= _LEAST * sizes[len(rows)]  # False for NaN, which stays
        last = jnp.where(nothing[:, None], 0.0, last)
        size = jnp.where(nothing, 1.0, size)
        rows = [
            ranks - (jnp.sum(ranks * last, axis=-1) / size)[:, None] * last
            for ranks in rows
        ]
    left = jnp.sum(rows[0] ** 2, axis=-1) * jnp.sum(rows[1] ** 2, axis=-1)
    left = jnp.where(left > _LEAST * sizes[0] * sizes[1], left, jnp.nan)
    return jnp.sum(rows[0] * rows[1], axis=-1) / jnp.sqrt(left)


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
    return partial_spearman(a, b)


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


def _class_part(values: Array, labels: Array) -> Float[Array, "classes others"]:
    """Mean row of each class, without the entry of the class."""
    return _others(_class_means(values, labels), jnp.arange(values.shape[1]))


_PARTS = {"example": _others, "class": _class_part, "instance": _instance_part}
