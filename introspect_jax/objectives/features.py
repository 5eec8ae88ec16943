"""Distances between what two networks, or two depths of one, make of an image.

One number per example, in float32 or wider. They know nothing of labels: the mean over
a batch has to leave out its ignored examples.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import wide
from introspect_jax.objectives._checks import describe

__all__ = ["attention_distance", "attention_map", "feature_distance", "map_factors"]


def attention_map(
    maps: Real[ArrayLike, "batch height width channels"],
) -> Float[Array, "batch height width"]:
    """Mean of the squares over the channels, `[batch, h, w]`, at least 0.

    Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017 (arXiv
    1612.03928), section 3.1, `F_sum^2` but for a factor.

    Args:
      maps: Feature maps `[batch, h, w, channels]`.

    Raises:
      ValueError: maps of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.features import attention_map
      >>> attention_map(jnp.array([[[[1.0, 3.0], [0.0, -2.0]]]])).tolist()
      [[[5.0, 2.0]]]
    """
    values = wide(maps)
    if values.ndim != 4 or 0 in values.shape[1:]:
        raise ValueError(
            f"maps must be [batch, height, width, channels], got {describe(values)}"
        )
    return jnp.mean(values**2, axis=-1)


def attention_distance(
    maps: Real[ArrayLike, "batch height width channels"],
    other_maps: Real[ArrayLike, "batch other_height other_width other_channels"],
) -> Float[Array, " batch"]:
    """Distance between where two networks look, `[batch]`, at least 0.

    With the attention maps Q and R as vectors, `mean_i (Q_i / |Q| - R_i / |R|)^2` over
    the positions i: the loss of the released code (`at_loss`; its mean over the batch
    is left to the caller). The paper has the norm of the difference in place of the
    mean of its squares. Zagoruyko and Komodakis 2017 (arXiv 1612.03928).

    Attention maps of different sizes are averaged over blocks of positions to the
    smaller size; the paper interpolates them. An attention map of zeros stays one.

    Args:
      maps: Feature maps `[batch, h, w, channels]`.
      other_maps: those of the other network; any number of channels.

    Raises:
      ValueError: maps of another shape or batch, or sides that do not divide each
        other.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.features import attention_distance
      >>> left, right = jnp.array([[[[2.0], [0.0]]]]), jnp.array([[[[0.0], [1.0]]]])
      >>> attention_distance(left, right).tolist()
      [1.0]
      >>> attention_distance(left, -3 * left).tolist()
      [0.0]
    """
    first, second = attention_map(maps), attention_map(other_maps)
    if len(first) != len(second):
        raise ValueError(
            f"other_maps must have the batch {len(first)} of maps, got {len(second)}"
        )
    own, other = map_factors(first.shape[1:], second.shape[1:])
    difference = _unit(_pooled(first, own)) - _unit(_pooled(second, other))
    return jnp.mean(difference**2, axis=(1, 2))


def map_factors(
    size: tuple[int, ...], other: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Sides of the blocks that bring two sizes to the smaller one in each direction.

    Args:
      size: `(h, w)` of one map.
      other: That of the other.

    Raises:
      ValueError: sides that do not divide each other.

    Example:
      >>> from introspect_jax.objectives.features import map_factors
      >>> map_factors((8, 4), (4, 4))
      ((2, 1), (1, 1))
    """
    (height, width), (other_height, other_width) = size, other
    rows, columns = min(height, other_height), min(width, other_width)
    sides = (height, width, other_height, other_width)
    if any(
        side % least for side, least in zip(sides, (rows, columns) * 2, strict=True)
    ):
        raise ValueError(
            f"maps of {height}x{width} and {other_height}x{other_width} cannot be "
            "compared: their sides must divide each other"
        )
    return (
        (height // rows, width // columns),
        (other_height // rows, other_width // columns),
    )


def feature_distance(
    features: Real[ArrayLike, "batch features"],
    other_features: Real[ArrayLike, "batch features"],
) -> Float[Array, " batch"]:
    """`sum_d (f_d - g_d)^2`, `[batch]`.

    The hint of Zhang et al., Be Your Own Teacher, ICCV 2019 (arXiv 1905.08094),
    section 3.2. The released code leaves out what is negative in both; of features
    that come from a ReLU nothing is.

    Args:
      features: f, `[batch, features]`.
      other_features: g, of the same shape.

    Raises:
      ValueError: features of another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.features import feature_distance
      >>> feature_distance(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 4.0]])).tolist()
      [5.0]
    """
    first, second = wide(features), wide(other_features)
    if first.ndim != 2 or first.shape != second.shape:
        raise ValueError(
            "features and other_features must both be [batch, features], got "
            f"{describe(first)} and {describe(second)}"
        )
    return jnp.sum((first - second) ** 2, axis=-1)


def _pooled(values: jax.Array, factors: tuple[int, int]) -> jax.Array:
    """Means over blocks of `[batch, h, w]`."""
    batch, height, width = values.shape
    rows, columns = factors
    blocks = values.reshape(batch, height // rows, rows, width // columns, columns)
    return jnp.mean(blocks, axis=(2, 4))


def _unit(values: jax.Array) -> jax.Array:
    """Each `[h, w]` of a batch divided by its norm; zeros stay zeros."""
    # Divided by the largest first, so that no square is too large or too small. The
    # quotient by the norm does not depend on it.
    top = jax.lax.stop_gradient(jnp.max(values, axis=(1, 2), keepdims=True))
    values = values / jnp.where(top > 0, top, 1.0)
    squares = jnp.sum(values**2, axis=(1, 2), keepdims=True)
    return values / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
