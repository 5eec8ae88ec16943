"""Layouts: channels last, first or absent; every option honours `channel_axis`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    Centered,
    ChannelSum,
    GradCAM,
    Gradient,
    GradientXInput,
    HiResCAM,
    IntegratedGradients,
    Pool,
    metrics,
)

KEY = jax.random.key(0)
KERNEL = jax.random.normal(KEY, (3, 3, 3, 4))
HEAD = jax.random.normal(jax.random.key(1), (4, 5))
IMAGES = jax.random.normal(jax.random.key(2), (2, 6, 8, 3))
LABELS = jnp.array([1, 3])


class Net:
    """The same network on `[batch, h, w, c]` and on `[batch, c, h, w]`."""

    def __init__(self, axis):
        self.axis = axis

    def of(self, images):
        return images if self.axis == -1 else jnp.moveaxis(images, -1, 1)

    def back(self, maps):
        return np.asarray(maps if self.axis == -1 else jnp.moveaxis(maps, -3, -1))

    def features(self, x):
        spec = ("NHWC", "HWIO", "NHWC") if self.axis == -1 else ("NCHW", "HWIO", "NCHW")
        return jnp.tanh(
            jax.lax.conv_general_dilated(
                x, KERNEL, (1, 1), "SAME", dimension_numbers=spec
            )
        )

    def head(self, h):
        space = (1, 2) if self.axis == -1 else (2, 3)
        return (h**2).mean(space) @ HEAD

    def __call__(self, x):
        return self.head(self.features(x))


LAST, FIRST = Net(-1), Net(1)
EXPLANATIONS = {
    "mean": lambda net: IntegratedGradients(5, "mean"),
    "blur": lambda net: IntegratedGradients(5, "blur"),
    "product": lambda net: GradientXInput("mean"),
    "channel sum": lambda net: ChannelSum(Gradient()),
    "centered": lambda net: Centered(Gradient()),
    "pool": lambda net: Pool(Gradient(), 2),
    "grad_cam": lambda net: GradCAM(net.features, net.head),
    "hires_cam": lambda net: HiResCAM(net.features, net.head),
}


@pytest.mark.parametrize("name", EXPLANATIONS)
def test_both_layouts_give_the_same_maps(name):
    maps, similar = [], []
    for net in (LAST, FIRST):

        @jax.jit
        def both(x, net=net):
            call = (net, x, LABELS, EXPLANATIONS[name](net))
            return [
                f(*call, channel_axis=net.axis) for f in (explain_fn, class_similarity)
            ]

        found = both(net.of(IMAGES))
        maps.append(net.back(found[0]))
        similar.append(found[1])
    scale = np.abs(maps[0]).max()
    np.testing.assert_allclose(maps[1], maps[0], atol=1e-5 * scale)
    np.testing.assert_allclose(similar[1], similar[0], rtol=1e-3, atol=1e-5)


def test_both_layouts_give_the_same_metrics():
    maps = explain_fn(LAST, IMAGES, LABELS, "gradient_x_input")
    for metric, baseline in (
        (metrics.deletion, "zero"),
        (metrics.deletion, "mean"),
        (metrics.insertion, "blur"),
        (metrics.completeness_error, "blur"),
    ):
        found = [
            jax.jit(
                functools.partial(metric, net, baseline=baseline, channel_axis=net.axis)
            )(net.of(IMAGES), LABELS, net.of(maps))
            for net in (LAST, FIRST)
        ]
        np.testing.assert_allclose(found[1], found[0], rtol=1e-4, atol=1e-6)
    moved = [
        jax.jit(
            functools.partial(
                metrics.max_sensitivity,
                net,
                explanation=IntegratedGradients(3, "mean"),
                noise=jnp.full((2, 1, *net.of(IMAGES).shape[1:]), 0.1),
                channel_axis=net.axis,
            )
        )(net.of(IMAGES), LABELS)
        for net in (LAST, FIRST)
    ]
    np.testing.assert_allclose(moved[1], moved[0], rtol=1e-3)


@pytest.mark.parametrize("shape", [(2, 5, 4), (2, 4, 4, 4)], ids=["grey", "volume"])
def test_inputs_without_channels(shape):
    """Pixels are removed one by one, not a row of them at once."""
    inputs = jnp.ones(shape)

    def first_pixel(x):
        on = x.reshape(len(x), -1)[:, 0] > 0.5
        return jnp.stack([jnp.where(on, 50.0, -50.0), jnp.zeros(len(x))], axis=1)

    size = inputs[0].size
    maps = jnp.arange(size, 0.0, -1.0).reshape(1, *shape[1:]) * jnp.ones(
        (2, *[1] * (len(shape) - 1))
    )
    call = (first_pixel, inputs, 0, maps)
    area = metrics.deletion(*call, num_steps=size, channel_axis=None)
    # Off after the first of all pixels: half a step of the trapezoid.
    np.testing.assert_allclose(area, 0.5 / size, atol=1e-6)
    last = metrics.deletion(
        first_pixel, inputs, 0, -maps, num_steps=size, channel_axis=None
    )
    np.testing.assert_allclose(last, 1 - 0.5 / size, atol=1e-6)
    with pytest.raises(ValueError, match=r"doubtful for inputs of shape \[2, "):
        metrics.deletion(*call)
    with pytest.raises(ValueError, match="doubtful"):
        metrics.insertion(*call)
    with pytest.raises(ValueError, match="doubtful"):
        explain_fn(first_pixel, inputs, 0, GradientXInput("mean"))


def test_mean_and_blur_without_channels():
    grey = IMAGES[..., 0]
    net = LAST

    def coloured(x):
        return net(jnp.stack([x] * 3, axis=-1))

    def with_axis(x):
        return coloured(x[..., 0])

    for baseline in ("mean", "blur"):
        explanation = IntegratedGradients(4, baseline)
        without = explain_fn(coloured, grey, LABELS, explanation, channel_axis=None)
        single = explain_fn(with_axis, grey[..., None], LABELS, explanation)
        np.testing.assert_allclose(without, single[..., 0], rtol=1e-4, atol=1e-7)
        with pytest.raises(ValueError, match="spatial axes"):
            explain_fn(lambda x: x @ HEAD, jnp.ones((2, 4)), 0, explanation)


def test_channels_first_is_not_taken_for_channels_last():
    with pytest.raises(
        ValueError, match=r"doubtful for inputs of shape \[2, 3, 6, 8\]"
    ):
        metrics.deletion(FIRST, FIRST.of(IMAGES), LABELS, FIRST.of(IMAGES))
    chosen = metrics.deletion(
        lambda x: x.mean((1, 2)),
        jnp.ones((2, 4, 4, 5)),
        0,
        jnp.ones((2, 4, 4, 5)),
        channel_axis=3,
    )
    assert chosen.shape == (2,)


@pytest.mark.untyped
def test_maps_that_do_not_fit():
    with pytest.raises(ValueError, match=r"maps must be \[2, 6, 8, 3\], like the inp"):
        metrics.deletion(LAST, IMAGES, LABELS, IMAGES[:, :3])
    with pytest.raises(ValueError, match="maps must have 2 rows"):
        metrics.insertion(LAST, IMAGES, LABELS, IMAGES[:1])
