"""Convolutions in forms that XLA's compiler for CPUs makes faster.

Where values are finite they are those of `jax.lax` but for rounding, and they are
`jax.lax`'s own unless the settings of `introspect_jax.cpu` are on.

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
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from introspect_jax import cpu
from introspect_jax.explain.placement import is_sharded, varying

# Images of a device in a group, the fewest groups that are made, and the smallest maps,
# in pixels. In trials those of 15x15 gained three times and those of 7x7 nothing, and
# 32 images of a device took 1.3 times as long in two groups.
_GROUP, _LEAST_GROUPS, _LEAST_PIXELS = 16, 4, 14 * 14
# Channels up to which columns are taken in pairs, and images in a group of these.
_MOST_CHANNELS, _PAIRED_GROUP = 16, 32
_SIGNATURE = inspect.signature(jax.lax.conv_general_dilated)
_SAME = ((1, 1), (1, 1))
_LAYOUT = ("NHWC", "HWIO", "NHWC")


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, faster on CPUs if the settings are on.

    For layers of Flax: `nn.Conv(..., conv_general_dilated=conv_general_dilated)`.

    It is for batches that devices share, on a mesh with automatic axes or in
    `jax.shard_map`; arrays divided over explicit axes are left to `jax.lax`, and those
    whose height or width is divided are not for it. Pairs are a primitive of their own,
    which `jax.checkpoint_policies.dots_saveable` does not know.
    """
    conv: Callable = functools.partial(_conv, args, kwargs)
    if not cpu.active or not _may_change(lhs, rhs):
        return conv(lhs, rhs)
    given = _SIGNATURE.bind(lhs, rhs, *args, **kwargs)
    given.apply_defaults()
    if _fits_pairs(**given.arguments):
        conv = _by_pairs
    elif _fits_groups(**given.arguments):
        conv = _in_groups(conv)
    lhs = jax.lax.optimization_barrier(lhs)
    return jax.lax.optimization_barrier(conv(lhs, rhs))


def _may_change(*factors: jax.Array) -> bool:
    """Whether their sizes are known, and they are not divided over an explicit mesh:
    reshapes would have to be told how, and JAX 0.12 does not compile barriers there."""
    return not any(
        is_sharded(factor) or any(not isinstance(size, int) for size in factor.shape)
        for factor in factors
    )


def _conv(args: Any, kwargs: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(lhs, rhs, *args, **kwargs)


def _fits_groups(
    lhs: jax.Array,
    rhs: jax.Array,
    dimension_numbers: Any,
    batch_group_count: int,
    **more: Any,
) -> bool:
    """Whether `_in_groups` can gain: maps are large, and images come first."""
    del more
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    pixels = math.prod(lhs.shape[axis] for axis in layout.lhs_spec[2:])
    first = layout.lhs_spec[0] == layout.out_spec[0] == 0
    return first and batch_group_count == 1 and pixels >= _LEAST_PIXELS


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
        (lhs, rhs), (lhs_dot, rhs_dot) = primals, tangents
        parts = []
        if not isinstance(lhs_dot, SymbolicZero):
            parts.append(function(lhs_dot, rhs))
        if not isinstance(rhs_dot, SymbolicZero):
            parts.append(_grouped(conv, _GROUP, lhs, rhs_dot))
        return function(lhs, rhs), functools.reduce(jnp.add, parts)

    return function


def _grouped(conv: Callable, group: int, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`conv(lhs, rhs)`, one group of so many images of each device after the other.

    A group takes images at equal distances, as many of each device, so that nothing
    moves between devices; the bits depend on the number of devices, not on that of the
    cores. The gradients of the groups are added in float32 at least.
    """
    images = lhs.shape[0]
    size = group * cpu.devices_of_batch
    count = images // size if images % size == 0 else 1
    if count < _LEAST_GROUPS:
        return conv(lhs, rhs)
    split = lhs.reshape(size, count, *lhs.shape[1:])
    wide = rhs.astype(jnp.promote_types(rhs.dtype, jnp.float32))
    outs = [conv(split[:, i], wide.astype(rhs.dtype)) for i in range(count)]
    stacked = jnp.stack(outs, axis=1)
    return stacked.reshape(images, *stacked.shape[2:])


def _fits_pairs(
    lhs: jax.Array,
    rhs: jax.Array,
    window_strides: Any,
    padding: Any,
    lhs_dilation: Any,
    rhs_dilation: Any,
    dimension_numbers: Any,
    feature_group_count: int,
    batch_group_count: int,
    **more: Any,
) -> bool:
    """Whether it is a convolution that `_by_pairs` computes: 3x3 with a border of one
    pixel, few channels and an even width."""
    layout = jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)
    if lhs.ndim != 4 or layout != jax.lax.conv_dimension_numbers(
        lhs.shape, rhs.shape, _LAYOUT
    ):
        return False
    images, kernel, strides = lhs.shape[1:3], rhs.shape[:2], tuple(window_strides)
    plain = (
        kernel == (3, 3),
        strides == (1, 1),
        all(d is None or tuple(d) == (1, 1) for d in (lhs_dilation, rhs_dilation)),
        feature_group_count == batch_group_count == 1,
        # `jax.lax` says what is wrong with other channels, and promotes no types.
        lhs.shape[3] == rhs.shape[2],
        lhs.dtype == rhs.dtype,
        max(rhs.shape[2:]) <= _MOST_CHANNELS,
        lhs.shape[2] % 2 == 0,
        all(value is None for value in more.values()),
    )
    if not all(plain):
        return False
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(images, kernel, strides, padding)
    return tuple(map(tuple, padding)) == _SAME


def _plain(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        lhs, rhs, (1, 1), _SAME, dimension_numbers=_LAYOUT
    )


def _paired(lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`_plain`, two columns at a time.

    With a column of zeros at each side, a map of the columns a to d is three blocks,
    `[0 a] [b c] [d 0]`. Two neighbours hold what two columns of the output need: of
    `[0 a] [b c]`, the output at a is of the columns 0, a and b, that at b of a, b and
    c. So the kernel is two blocks wide, with zeros for the fourth column.
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
    axes = varying(lhs) | varying(rhs)  # of a `shard_map`, as `jax.lax` does it
    return _pairs.bind(*(_varying_over(axes, factor) for factor in (lhs, rhs)))


def _varying_over(axes: frozenset[str], factor: jax.Array) -> jax.Array:
    missing = tuple(axes - varying(factor))
    return jax.lax.pcast(factor, missing, to="varying") if missing else factor


def _to_images(cotangent: jax.Array, lhs: Any, rhs: jax.Array) -> jax.Array:
    """The transpose by the images: the same convolution of the cotangent, with the
    kernel turned round."""
    del lhs
    return _by_pairs(cotangent, rhs[::-1, ::-1].swapaxes(2, 3))


def _to_kernel(cotangent: jax.Array, lhs: jax.Array, rhs: Any) -> jax.Array:
    """The transpose by the kernel: that of `_plain`, in groups; that of `_paired` would
    lose what it gains."""
    linear = functools.partial(_grouped, _plain, _PAIRED_GROUP, lhs)
    return jax.linear_transpose(linear, rhs.aval)(cotangent)[0]


def _batched(values: Any, axes: Any) -> tuple[jax.Array, int]:
    """`jax.vmap`: several arrays of images are taken as one with all of their images.
    What has a kernel for each, or is divided over an explicit mesh, is left to
    `jax.lax`."""
    lhs, rhs = values
    if axes[1] is not None or not _may_change(lhs, rhs):
        return jax.vmap(_plain, in_axes=axes)(lhs, rhs), 0
    lhs = jnp.moveaxis(lhs, axes[0], 0)
    out = _by_pairs(lhs.reshape(lhs.shape[0] * lhs.shape[1], *lhs.shape[2:]), rhs)
    return out.reshape(*lhs.shape[:2], *out.shape[1:]), 0


def _type_of_output(lhs: Any, rhs: Any) -> Any:
    """The abstract value; those of the factors agree in all that is not changed."""
    return lhs.update(
        shape=(*lhs.shape[:3], rhs.shape[3]), weak_type=lhs.weak_type and rhs.weak_type
    )


_pairs = Primitive("conv3x3_pairs")
_pairs.def_impl(jax.jit(_paired))
_pairs.def_abstract_eval(_type_of_output)
mlir.register_lowering(_pairs, mlir.lower_fun(_paired, multiple_results=False))
ad.defbilinear(_pairs, _to_images, _to_kernel)
batching.primitive_batchers[_pairs] = _batched
