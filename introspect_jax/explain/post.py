"""Linear post-maps of explanations."""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.explain.linear import LinearMap


def make_post(
    like: jax.Array,
    *,
    channel_axis: int = -1,
    channel_sum: bool = False,
    pool: int | None = None,
    mask: Any = None,
    weigh_channels: bool = False,
) -> LinearMap:
    """A linear map of explanations `[batch, ...]`; its parts apply in this order.

    Args:
      like: the inputs or features `[batch, ...]`.
      channel_axis: where the channels are: -1 for NHWC, 1 for NCHW.
      channel_sum: sums over the channels, which leaves an axis of 1.
      pool: side of the squares over which both spatial axes are averaged.
      mask: multiplied, broadcasts to the maps at this point.
      weigh_channels: Grad-CAM: the mean of the map over space weighs the channels of
        `like`, which are then summed.

    Raises:
      ValueError: a shape that a part does not fit.
    """
    channels = channel_axis % like.ndim
    space = tuple(axis for axis in range(1, like.ndim) if axis != channels)
    if (pool or weigh_channels) and len(space) != 2:
        raise ValueError(f"pooling needs two spatial axes, got inputs of {like.shape}")
    if pool and any(like.shape[axis] % pool for axis in space):
        raise ValueError(f"pool={pool} does not divide the images {like.shape}")

    def post(maps: jax.Array) -> jax.Array:
        if weigh_channels:
            maps = like * maps.mean(space, keepdims=True)
        if channel_sum or weigh_channels:
            maps = maps.sum(channels, keepdims=True)
        if pool:
            for axis in space:
                shape = maps.shape
                split = (*shape[:axis], shape[axis] // pool, pool, *shape[axis + 1 :])
                maps = maps.reshape(split).mean(axis + 1)
        return maps if mask is None else maps * jnp.asarray(mask, maps.dtype)

    if mask is not None:
        shape = jax.eval_shape(post, like).shape
        unmasked = make_post(
            like,
            channel_axis=channel_axis,
            channel_sum=channel_sum,
            pool=pool,
            weigh_channels=weigh_channels,
        )
        if shape != jax.eval_shape(unmasked, like).shape:
            raise ValueError(f"mask {jnp.shape(mask)} does not broadcast to the maps")
    return post
