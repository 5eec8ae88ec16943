"""Convolutions in forms that XLA's compiler for CPUs makes faster.

They are those of `jax.lax` but for rounding, and `jax.lax`'s own unless the settings of
`introspect_jax.cpu` are on.

* **Barriers** around each convolution: `introspect_jax.cpu` says why.
* **Pairs.** XLA is slow at 3x3 convolutions of few channels. Up to 16 of them, two
  columns of a map are taken as one of twice the channels, with a kernel of 3x2 that is
  zero where columns are not neighbours: a third more multiplications, in less time.
* **Groups.** As a convolution, the gradient of a kernel has the images of the batch for
  channels, and XLA is several times slower where these are many: 15 GFLOP/s for 512
  images of 15x15 pixels a device, 44 for groups of 16 of them. So it is computed for
  groups of 16 images, or 32 where columns are in pairs, unless there would be less than
  four groups, or maps are too small to gain.

`benchmarks/README.md` says what each of them gains.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from introspect_jax import cpu

# Images of a device in a group, the fewest groups that are made, and the smallest maps,
# in pixels. In trials those of 15x15 gained three times and those of 7x7 nothing, and
# 32 images of a device took 1.3 times as long in two groups.
_GROUP, _LEAST_GROUPS, _LEAST_PIXELS = 16, 4, 14 * 14
# Channels up to which columns are taken in pairs, and images in a group of these.
_MOST_CHANNELS, _PAIRED_GROUP = 16, 32
_SAME = ((1, 1), (1, 1))
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, faster on CPUs if the settings are on.

    For layers of Flax: `nn.Conv(..., conv_general_dilated=conv_general_dilated)`, whose
    images are `[batch, ..., channels]`.
    """
    conv: Callable = functools.partial(_conv, args, kwargs)
    if not cpu.active or _is_explicit(lhs):
        return conv(lhs, rhs)
    if _fits_pairs(lhs, rhs, *args, **kwargs):
        conv = _by_pairs
    elif math.prod(lhs.shape[1:-1]) >= _LEAST_PIXELS:
        conv = _in_groups(conv)
    lhs = jax.lax.optimization_barrier(lhs)
    return jax.lax.optimization_barrier(conv(lhs, rhs))


def _is_explicit(images: jax.Array) -> bool:
    """Whether they are divided over an explicit mesh: reshapes would have to be told
    how, and JAX 0.12 does not compile barriers there."""
    return any(axis is not None for axis in jax.typeof(images).sharding.spec)


def _conv(args: Any, kwargs: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(lhs, rhs, *args, **kwargs)


def _in_groups(conv: Callable) -> Callable:
    """The same function of images and kernel, with a weight gradient in groups.

    The derivative by the kernel is written as the convolutions of groups of images, so
    that its transpose is a sum over them. All else is that of `conv`.
    """

    @jax.custom_jvp
    def function(lhs, rhs):
        return conv(lhs, rhs)

    @functools.partial(function.defjvp, symbolic_zeros=True)
    def jvp(primals, tangents):
        (lhs, rhs), (moved, turned) = primals, tangents
        out = function(lhs, rhs)
        parts = []
        if not isinstance(moved, SymbolicZero):
            parts.append(function(moved, rhs))
        if not isinstance(turned, SymbolicZero):
            parts.append(_grouped(conv, _GROUP, lhs, turned))
        return out, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(out)

    return function


def _grouped(conv: Callable, group: int, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`conv(lhs, rhs)`, one group of so many images of each device after the other.

    A group takes images at equal distances, as many of each device, so that nothing
    moves between devices; the bits depend on the number of devices, not on that of the
    cores.
    """
    images = len(lhs)
    size = group * cpu.sharing
    count = images // size if images % size == 0 else 1
    if count < _LEAST_GROUPS:
        return conv(lhs, rhs)
    split = lhs.reshape(size, count, *lhs.shape[1:])
    outs = [conv(split[:, i], rhs) for i in range(count)]
    stacked = jnp.stack(outs, axis=1)
    return stacked.reshape(images, *stacked.shape[2:])


def _fits_pairs(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any = None,
    rhs_dilation: Any = None,
    dimension_numbers: Any = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    **more: Any,
) -> bool:
    """Whether it is a convolution that `_by_pairs` computes: 3x3 with a border of one
    pixel, few channels and an even width."""
    if lhs.ndim != 4 or rhs.shape[:2] != (3, 3) or max(rhs.shape[2:]) > _MOST_CHANNELS:
        return False
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    given = (
        layout == jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, _LAYOUT),
        lhs.shape[2] % 2 == 0,
        tuple(window_strides) == (1, 1),
        not isinstance(padding, str) and tuple(map(tuple, padding)) == _SAME,
        all(dilation in (None, 1, (1, 1)) for dilation in (lhs_dilation, rhs_dilation)),
        feature_group_count == batch_group_count == 1,
        all(value is None for value in more.values()),
    )
    return all(given)


def _plain(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        lhs, rhs, (1, 1), _SAME, dimension_numbers=_LAYOUT
    )


def _paired(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`_plain`, two columns at a time.

    Blocks of two columns begin one column to the left of the map. Two neighbours of
    them hold what two columns of the output need: the first output is of the first
    three columns of the four, the second of the last three.
    """
    images, height, width, channels = lhs.shape
    features = rhs.shape[-1]
    sides = jnp.pad(lhs, ((0, 0), (0, 0), (1, 1), (0, 0)))
    blocks = sides.reshape(images, height, width // 2 + 1, 2 * channels)
    four = [jnp.pad(rhs, ((0, 0), (i, 1 - i), (0, 0), (0, 0))) for i in (0, 1)]
    wide = jnp.stack(four, axis=3).reshape(3, 2, 2 * channels, 2 * features)
    out = jax.lax.conv_general_dilated(
        blocks, wide, (1, 1), ((1, 1), (0, 0)), dimension_numbers=_LAYOUT
    )
    return out.reshape(images, height, width, features)


def _by_pairs(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`_plain` as a primitive, so that its derivatives are of this form as well:
    those that JAX would derive of `_paired` lose what it gains."""
    missing = tuple(_varying(lhs) - _varying(rhs))
    if missing:  # as `jax.lax` does in `shard_map`
        rhs = jax.lax.pcast(rhs, missing, to="varying")
    return _pairs.bind(lhs, rhs)


def _varying(value: jax.Array) -> frozenset[str]:
    """Axes of a `shard_map` over which the value differs."""
    kind = jax.typeof(value)
    # The attribute depends on the version of JAX.
    manual = getattr(kind, "manual_axis_type", None)
    return frozenset(kind.vma if manual is None else manual.varying)


def _to_images(cotangent: jax.Array, lhs: Any, rhs: jax.Array) -> jax.Array:
    """The same convolution of the cotangent, with the kernel turned round."""
    del lhs
    return _by_pairs(cotangent, rhs[::-1, ::-1].swapaxes(2, 3))


def _to_kernel(cotangent: jax.Array, lhs: jax.Array, rhs: Any) -> jax.Array:
    """That of `_plain`, in groups; that of `_paired` would lose what it gains."""
    linear = functools.partial(_grouped, _plain, _PAIRED_GROUP, lhs)
    return jax.linear_transpose(linear, rhs.aval)(cotangent)[0]


def _batched(values: Any, axes: Any) -> tuple[jax.Array, int]:
    """Several arrays of images are one; a kernel for each is left to `jax.lax`."""
    lhs, rhs = values
    if axes[1] is not None:
        return jax.vmap(_plain, in_axes=axes)(lhs, rhs), 0
    lhs = jnp.moveaxis(lhs, axes[0], 0)
    out = _by_pairs(lhs.reshape(-1, *lhs.shape[2:]), rhs)
    return out.reshape(*lhs.shape[:2], *out.shape[1:]), 0


_pairs = Primitive("conv3x3_pairs")
_pairs.def_impl(jax.jit(_paired))
_pairs.def_abstract_eval(
    lambda lhs, rhs: lhs.update(shape=(*lhs.shape[:3], rhs.shape[3]))
)
mlir.register_lowering(_pairs, mlir.lower_fun(_paired, multiple_results=False))
ad.defbilinear(_pairs, _to_images, _to_kernel)
batching.primitive_batchers[_pairs] = _batched
