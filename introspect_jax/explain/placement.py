"""How arrays are divided between devices, as far as their types say so."""

import jax
import jax.numpy as jnp
from jaxtyping import Array


def placed_like(like: Array, values: Array) -> Array:
    """Returns the values with the sharding type of `like`.

    The type of an array includes the axes of an explicit mesh over which it is sharded
    and, inside `shard_map`, the axes over which it varies. A VJP only accepts
    cotangents with the type of the outputs.

    Args:
      like: Array `[batch, ...]`.
      values: Array `[batch, ...]` with the same shape, or at least the same batch size.
    """
    if not is_sharded(like) and not varying(like):
        return values
    # A zero with the type of `like`, also if `like` is not finite: `zeros_like` loses
    # the type in some versions of JAX, and `reshard` needs a mesh in the context.
    zero = 0 * jnp.nan_to_num(like)
    if values.shape != like.shape:
        zero = zero.sum(tuple(range(1, like.ndim)))
        zero = zero.reshape(-1, *[1] * (values.ndim - 1))
    return values + zero.astype(values.dtype)


def is_sharded(value: Array | jax.ShapeDtypeStruct) -> bool:
    """Whether the array's type is sharded over axes of an explicit mesh."""
    kind = value if isinstance(value, jax.ShapeDtypeStruct) else jax.typeof(value)
    spec = getattr(kind.sharding, "spec", ())
    return any(axis is not None for axis in spec)


def varying(value: Array) -> frozenset[str]:
    """Mesh axes over which the array's type varies inside a `shard_map`."""
    kind = jax.typeof(value)
    # The attribute depends on the version of JAX.
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(getattr(kind, "vma", ()) if manual is None else manual.varying)
