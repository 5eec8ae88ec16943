"""Convolutions with the settings for CPUs: those of `jax.lax` but for rounding."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from layers import GROUPED, LAYERS, drawn, layer, operations
from marks import slow_but

from introspect_jax import convolutions, cpu

# Types, and how far apart from float64.
LESS = [(jnp.float32, 2e-5), (jnp.bfloat16, 0.1)]


def derivatives(conv):
    """`(x, kernel) -> {name: arrays}`: what is taken of convolutions here."""

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(conv(x, kernel)))

    def second(x, kernel):
        return jnp.sum(jnp.sin(jax.grad(loss)(x, kernel)))

    def found(x, kernel):
        out = conv(x, kernel)
        two, kernels = jnp.stack([x, 2 * x]), jnp.stack([kernel, 2 * kernel])
        directions = jnp.cos(x), jnp.sin(kernel)
        return {
            "outputs": out,
            "gradients": jax.grad(loss, (0, 1))(x, kernel),
            "forward mode": jax.jvp(conv, (x, kernel), directions)[1],
            "transposed": jax.linear_transpose(lambda x: conv(x, kernel), x)(out)[0],
            # Derivatives of explanations: that of a gradient, by weights and input.
            "second order": jax.grad(second, (0, 1))(x, kernel),
            "vmap": jax.vmap(conv, (0, None))(two, kernel),
            "vmap, other axes": jax.vmap(conv, (2, None), 3)(
                jnp.moveaxis(two, 0, 2), kernel
            ),
            "vmap over kernels": jax.vmap(conv, (None, 0))(x, kernels),
            "rematerialised": jax.grad(jax.checkpoint(loss), (0, 1))(x, kernel),
        }

    return found


@pytest.mark.optimised
@pytest.mark.parametrize("name", slow_but([*LAYERS][:3], LAYERS))
def test_convolutions_are_those_of_lax(active, x64, name):
    """In float64, compiled with the barriers kept: nothing but rounding apart."""
    given = drawn(name, jnp.float64, images=GROUPED.get(name, 8))
    wanted = jax.jit(derivatives(layer(jax.lax.conv_general_dilated, name)))(*given)
    ours = derivatives(layer(convolutions.conv_general_dilated, name))
    chex.assert_trees_all_close(cpu.jit(ours)(*given), wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.optimised
@pytest.mark.parametrize(("dtype", "apart"), LESS)
def test_less_precision_against_float64(active, x64, dtype, apart):
    given = drawn("3x3", dtype)
    exact = derivatives(layer(jax.lax.conv_general_dilated, "3x3"))
    wanted = jax.jit(exact)(*(value.astype(jnp.float64) for value in given))
    found = cpu.jit(derivatives(layer(convolutions.conv_general_dilated, "3x3")))(
        *given
    )
    for kind in ("outputs", "gradients", "forward mode", "transposed"):
        for mine, true in zip(
            jax.tree.leaves(found[kind]), jax.tree.leaves(wanted[kind]), strict=True
        ):
            assert mine.dtype == dtype
            scale = float(jnp.abs(true).max())
            np.testing.assert_allclose(
                np.asarray(mine, np.float64) / scale, true / scale, atol=apart
            )


@pytest.mark.optimised
@pytest.mark.parametrize("name", GROUPED)
def test_many_groups_lose_no_precision(active, name):
    """Their gradients are added in float32, and rounded to bfloat16 once."""
    x, kernel = drawn(name, jnp.float32, images=4 * GROUPED[name])

    def gradient(function, x, kernel):
        conv = layer(function, name)
        return jax.grad(lambda k: jnp.sum(conv(x, k), dtype=x.dtype))(kernel)

    x = jnp.abs(x).astype(jnp.bfloat16)  # all terms have the same sign
    exact = jax.jit(functools.partial(gradient, jax.lax.conv_general_dilated))(
        x.astype(jnp.float32), kernel
    )
    found = cpu.jit(functools.partial(gradient, convolutions.conv_general_dilated))(
        x, kernel.astype(jnp.bfloat16)
    )
    apart = np.abs(np.asarray(found, np.float32) / exact - 1)
    assert apart.max() < 1.01 * 2**-8


def test_weight_gradients_are_taken_in_groups(active):
    """Of 16 images of each device; the gradient of the input is not divided."""
    name = "3x3, more channels"
    conv = layer(convolutions.conv_general_dilated, name)

    def count(argument, devices, **drawing):
        given = drawn(name, jnp.float32, **drawing)
        gradient = jax.grad(lambda *given: jnp.sum(conv(*given) ** 2), argument)
        with cpu.divided_among(devices):
            return operations(gradient, *given).count("conv_general_dilated[")

    assert count(0, 1) == 2  # forward, and to the input
    assert count(1, 1) == 1 + 4  # forward, and four groups of 16
    assert count(1, 2) == 1 + 1  # too few images of a device to gain
    assert count(1, 2, images=128) == 1 + 4
    assert count(1, 1, images=72) == 1 + 1
    assert count(1, 1, side=13) == 1 + 1  # maps too small to gain


def test_few_channels_are_computed_by_pairs(active):
    """Forward, to the images and along a direction; not to the kernel."""
    conv = layer(convolutions.conv_general_dilated, "3x3")

    def loss(x, kernel):
        return jnp.sum(conv(x, kernel) ** 2)

    def counts(function, images=2, side=14):
        given = drawn("3x3", jnp.float32, side, images)
        text = operations(function, *given)
        return text.count("conv3x3_pairs"), text.count("conv_general_dilated[")

    assert counts(conv) == (1, 0)
    assert counts(jax.grad(loss)) == (2, 0)
    assert counts(jax.grad(loss, (0, 1))) == (2, 1)
    assert counts(jax.grad(loss, 1), images=64) == (1, 1)
    assert counts(jax.grad(loss, 1), images=128) == (1, 4)  # groups of 32
    assert counts(lambda x, k: jax.jvp(lambda x: conv(x, k), (x,), (x,))) == (2, 0)
    assert counts(lambda x, k: jax.vmap(conv, (0, None))(x[None], k)) == (1, 0)
    assert counts(conv, side=13) == (0, 1)
    # The default padding of `nn.Conv`.
    assert counts(functools.partial(conv, padding="SAME")) == (1, 0)


@pytest.mark.parametrize(
    "change",
    [
        {"window_strides": (2, 2)},
        {"padding": ((1, 1), (1, 2))},
        {"padding": "VALID"},
        {"rhs_dilation": (2, 2)},
        {"lhs_dilation": (2, 2)},
        {"dimension_numbers": ("NWHC", "HWIO", "NHWC")},
        {"preferred_element_type": jnp.float64},
        {"feature_group_count": 5},
        {"batch_group_count": 2},
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_convolutions_are_not_computed_by_pairs(active, x64, change):
    x, kernel = drawn("3x3", jnp.float32, images=2)
    given = x, kernel[:, :, :1, :5] if "feature_group_count" in change else kernel
    ours = functools.partial(layer(convolutions.conv_general_dilated, "3x3"), **change)
    plain = functools.partial(layer(jax.lax.conv_general_dilated, "3x3"), **change)
    assert "pairs" not in operations(ours, *given)
    np.testing.assert_allclose(ours(*given), plain(*given), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"dimension_numbers": ("HWNC", "HWIO", "HWNC")},
        {"dimension_numbers": ("NHWC", "HWIO", "HWNC")},
        {"batch_group_count": 2},
    ],
    ids=["images third", "images third in the output", "batch_group_count"],
)
def test_groups_are_of_images_that_come_first(active, x64, change):
    """Of others the weight gradient is left to `jax.lax`."""
    x, kernel = drawn("3x3, more channels", jnp.float64, images=64)

    def gradient(function):
        conv = functools.partial(layer(function, "3x3, more channels"), **change)
        return jax.jit(jax.grad(lambda k: jnp.sum(jnp.tanh(conv(x, k)))))(kernel)

    wanted = gradient(jax.lax.conv_general_dilated)
    found = gradient(convolutions.conv_general_dilated)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)


def test_what_jax_lax_takes(active, x64):
    """Arguments by position, dilations in arrays, sizes not known yet, and values
    without a type of their own; what it refuses is refused in its words."""
    x, kernel = drawn("3x3", jnp.float64, images=2)
    plain = layer(jax.lax.conv_general_dilated, "3x3")
    ours = convolutions.conv_general_dilated
    layout = ("NHWC", "HWIO", "NHWC")
    given = ((1, 1), ((1, 1), (1, 1)), None, np.array([1, 1]), layout, 1, 1, None)
    np.testing.assert_allclose(ours(x, kernel, *given), plain(x, kernel), atol=1e-12)

    ours = layer(ours, "3x3")
    b, h = jax.export.symbolic_shape("b, h")
    for shape in ((b, 4, 4, 5), (2, h, h, 5)):
        unknown = jax.ShapeDtypeStruct(shape, x.dtype)
        gradient = jax.grad(lambda x, k: jnp.sum(ours(x, k)), (0, 1))
        out = jax.eval_shape(gradient, unknown, kernel)
        assert out[0].shape == shape
    weak = jnp.full(x.shape, 1.0)
    assert jax.typeof(weak).weak_type
    assert not jax.eval_shape(ours, weak, kernel).weak_type
    with pytest.raises(ValueError, match="feature dimension size"):
        jax.eval_shape(ours, x[..., :4], kernel)
    with pytest.raises(TypeError, match="requires arguments to have the same dtypes"):
        jax.eval_shape(ours, x, kernel.astype(jnp.float32))
