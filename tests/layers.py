"""Layers of convolutions, for the tests of those that are made for CPUs."""

import functools

import jax

# Kernel, stride, padding, channels and side of the networks of this package, with an
# odd one. The first is computed by pairs; with those for the images of a device, the
# weight gradients of the first two are taken in four groups.
LAYERS = {
    "3x3": (3, 1, 1, 5, 4),
    "3x3, more channels": (3, 1, 1, 17, 14),
    "3x3, stride 2": (3, 2, 1, 5, 14),
    "1x1, stride 2": (1, 2, 0, 5, 14),
    "7x7, stride 2": (7, 2, 3, 5, 14),
    "2x2": (2, 1, 0, 5, 14),
}
GROUPED = {"3x3": 128, "3x3, more channels": 64}


def layer(function, name):
    """`(x, kernel) -> array` of a layer with this function for its convolution."""
    _, stride, padding, *_ = LAYERS[name]
    return functools.partial(
        function,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def drawn(name, dtype, side=None, images=64):
    size, _, _, channels, usual = LAYERS[name]
    keys = jax.random.split(jax.random.key(0), 2)
    shape = (images, side or usual, side or usual, channels)
    return (
        jax.random.normal(keys[0], shape, dtype),
        jax.random.normal(keys[1], (size, size, channels, 6), dtype),
    )


def operations(function, *given):
    return str(jax.make_jaxpr(function)(*given))
