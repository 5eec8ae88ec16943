"""Convolutions with the settings for CPUs: exact, and absent from accelerators."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from marks import slow_but

from introspect_jax import convolutions, cpu, explain_fn, introspect
from introspect_jax.models import classifier


@pytest.fixture
def active(monkeypatch):
    """As after `switch_on`, in this process."""
    monkeypatch.setattr(cpu, "active", True)


# Types, and how far apart from float64.
LESS = [(jnp.float32, 2e-5), (jnp.bfloat16, 0.1)]
# Kernel, stride, padding and channels of the networks of this package, with an odd one.
# The first is computed by pairs, and the second by groups.
LAYERS = {
    "3x3": (3, 1, 1, 5),
    "3x3, more channels": (3, 1, 1, 17),
    "3x3, stride 2": (3, 2, 1, 5),
    "1x1, stride 2": (1, 2, 0, 5),
    "7x7, stride 2": (7, 2, 3, 5),
    "2x2": (2, 1, 0, 5),
}


def layer(function, name):
    """`(x, kernel) -> array` of a layer with this function for its convolution."""
    _, stride, padding, _ = LAYERS[name]
    return functools.partial(
        function,
        window_strides=(stride, stride),
        padding=((padding, padding),) * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def drawn(name, dtype, side=14, images=64):
    size, _, _, channels = LAYERS[name]
    keys = jax.random.split(jax.random.key(0), 2)
    return (
        jax.random.normal(keys[0], (images, side, side, channels), dtype),
        jax.random.normal(keys[1], (size, size, channels, 6), dtype),
    )


def derivatives(conv):
    """Name -> function of `(x, kernel)`: what is taken of convolutions here."""

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(conv(x, kernel)))

    def transposed(x, kernel):
        out = conv(x, kernel)
        return jax.linear_transpose(lambda x: conv(x, kernel), x)(out)[0]

    return {
        "outputs": conv,
        "gradients": jax.grad(loss, (0, 1)),
        "forward mode": lambda x, k: jax.jvp(conv, (x, k), (jnp.cos(x), jnp.sin(k)))[1],
        "transposed": transposed,
        # Derivatives of explanations: that of a gradient, by the weights and the input.
        "second order": jax.grad(
            lambda x, k: jnp.sum(jnp.sin(jax.grad(loss)(x, k))), (0, 1)
        ),
        "vmap": lambda x, k: jax.vmap(conv, (0, None))(jnp.stack([x, 2 * x]), k),
        "vmap over kernels": lambda x, k: jax.vmap(conv, (None, 0))(
            x, jnp.stack([k, 2 * k])
        ),
        "rematerialised": jax.grad(jax.checkpoint(loss), (0, 1)),
    }


@pytest.mark.optimised
@pytest.mark.parametrize("name", slow_but([*LAYERS][:3], LAYERS))
def test_convolutions_are_those_of_lax(active, x64, name):
    """In float64, compiled with the barriers kept: nothing but rounding apart."""
    given = drawn(name, jnp.float64)
    plain = derivatives(layer(jax.lax.conv_general_dilated, name))
    ours = derivatives(layer(convolutions.conv_general_dilated, name))
    for kind in plain:
        wanted = jax.jit(plain[kind])(*given)
        chex.assert_trees_all_close(
            cpu.jit(ours[kind])(*given), wanted, rtol=1e-12, atol=1e-12
        )


@pytest.mark.optimised
@pytest.mark.parametrize(("dtype", "apart"), LESS)
def test_less_precision_against_float64(active, x64, dtype, apart):
    exact = derivatives(layer(jax.lax.conv_general_dilated, "3x3"))
    ours = derivatives(layer(convolutions.conv_general_dilated, "3x3"))
    given = drawn("3x3", dtype)
    wide = [value.astype(jnp.float64) for value in given]
    for kind in ("outputs", "gradients", "forward mode", "transposed"):
        wanted = jax.tree.leaves(jax.jit(exact[kind])(*wide))
        for mine, true in zip(
            jax.tree.leaves(cpu.jit(ours[kind])(*given)), wanted, strict=True
        ):
            assert mine.dtype == dtype
            scale = float(jnp.abs(true).max())
            np.testing.assert_allclose(
                np.asarray(mine, np.float64) / scale, true / scale, atol=apart
            )


def operations(function, *given):
    return str(jax.make_jaxpr(function)(*given))


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

    def counts(function, images=2, **drawing):
        given = drawn("3x3", jnp.float32, images=images, **drawing)
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
    ],
    ids=lambda change: next(iter(change)),
)
def test_other_convolutions_are_not_computed_by_pairs(active, x64, change):
    given = drawn("3x3", jnp.float32, images=2)
    ours = functools.partial(layer(convolutions.conv_general_dilated, "3x3"), **change)
    plain = functools.partial(layer(jax.lax.conv_general_dilated, "3x3"), **change)
    assert "pairs" not in operations(ours, *given)
    np.testing.assert_allclose(ours(*given), plain(*given), rtol=1e-5, atol=1e-5)


def test_pairs_where_values_vary_by_device(active, x64):
    """In `shard_map` the kernel is everywhere, so that its gradient is a sum."""
    x, kernel = drawn("3x3", jnp.float64, images=8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    conv = layer(convolutions.conv_general_dilated, "3x3")

    def loss(x, kernel):
        return jnp.sum(jnp.tanh(conv(x, kernel)))

    def on_device(x, kernel):
        return jax.grad(loss, (0, 1))(x, kernel)

    rows = PartitionSpec("data")
    shared = jax.shard_map(
        on_device,
        mesh=mesh,
        in_specs=(rows, PartitionSpec()),
        out_specs=(rows, PartitionSpec()),
    )
    chex.assert_trees_all_close(
        cpu.jit(shared)(x, kernel), on_device(x, kernel), rtol=1e-12, atol=1e-12
    )


@pytest.mark.parametrize("name", [*LAYERS][:2])
def test_a_divided_batch(active, x64, name):
    """Groups have as many images of each device: none is moved."""
    x, kernel = drawn(name, jnp.float64)
    x = jnp.concatenate([x] * 8)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    conv = layer(convolutions.conv_general_dilated, name)

    def gradient(kernel, x):
        with cpu.divided_among(8):
            return jax.grad(lambda k: jnp.sum(jnp.tanh(conv(x, k))))(kernel)

    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    compiled = cpu.jit(gradient).lower(kernel, divided).compile()
    chex.assert_trees_all_close(
        compiled(kernel, divided), cpu.jit(gradient)(kernel, x), rtol=1e-12, atol=1e-12
    )
    text = compiled.as_text()
    assert "all-reduce" in text
    assert not [
        word for word in ("all-gather", "all-to-all", "permute(") if word in text
    ]


@pytest.mark.optimised
def test_explanations_over_an_explicit_mesh(active, x64):
    """They are left to `jax.lax`."""
    x, kernel = drawn("3x3", jnp.float64, images=8)
    conv = layer(convolutions.conv_general_dilated, "3x3")

    def maps(x):
        return explain_fn(lambda x: jnp.tanh(conv(x, kernel)).sum((1, 2)), x, "all")

    mesh = jax.make_mesh((4,), ("data",))  # explicit axes
    with jax.set_mesh(mesh):
        divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
        found = cpu.jit(maps)(divided)
    np.testing.assert_allclose(found, cpu.jit(maps)(x), rtol=1e-12, atol=1e-12)


def test_explanations_are_the_same(monkeypatch, x64):
    """The similarity of a network's explanations, with and without."""
    from tiny import build_tiny

    from introspect_jax.models import init_variables, make_logits_fn

    net = build_tiny(4)
    net = net.clone(backbone=net.backbone.clone())
    params, state = init_variables(net, (8, 8, 3), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    y = jnp.arange(6) % 4

    def target():
        logits_fn = make_logits_fn(net, {"params": params, **state})
        return cpu.jit(lambda x: introspect(logits_fn, x, y).probs)(x)

    before = target()
    monkeypatch.setattr(cpu, "active", True)
    chex.assert_trees_all_close(target(), before, rtol=1e-5, atol=1e-6)


@pytest.mark.optimised
def test_barriers_are_kept_by_the_compiler(active):
    """Otherwise they gain nothing: the compiler must know the option."""
    conv = layer(convolutions.conv_general_dilated, "3x3")
    given = drawn("3x3", jnp.float32)
    assert "opt-barrier" in cpu.jit(conv).lower(*given).compile().as_text()
    assert "opt-barrier" not in jax.jit(conv).lower(*given).compile().as_text()


def lowered(trainer, platform):
    batch = next(trainer.batches())
    traced = trainer.train_step.trace(trainer.abstract_state(), batch)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_get_the_program_that_they_got_before(
    experiment, monkeypatch, platform
):
    """Convolutions of Flax's own, as before there were settings for CPUs."""
    text = lowered(experiment(), platform)
    monkeypatch.setattr(classifier, "conv_general_dilated", None)
    assert text == lowered(experiment(), platform)
    assert "stablehlo.convolution" in text
    assert "optimization_barrier" not in text


def test_a_program_with_barriers_differs(experiment, active):
    assert "optimization_barrier" in lowered(experiment(), "cpu")


def test_floating_point_operations_are_counted_as_without_the_settings(
    experiment, monkeypatch
):
    """Of a network with convolutions by pairs; it need not be compiled."""
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda self: None)

    def counted():
        made = experiment(**{"method.name": "standard", "model.name": "resnet8"})
        return made.compile(made.abstract_state(), next(made.batches()))[1]

    without = counted()
    monkeypatch.setattr(cpu, "active", True)
    assert counted() == without
