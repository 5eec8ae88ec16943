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


@pytest.mark.parametrize("divided", ["images", "kernel"])
def test_pairs_where_values_vary_by_device(active, x64, divided):
    """In `shard_map`: the gradient of what is the same everywhere is a sum."""
    x, kernel = drawn("3x3", jnp.float64, images=8)
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows, same = PartitionSpec("data"), PartitionSpec()
    specs = (rows, same)
    if divided == "kernel":
        kernel, specs = (
            jnp.concatenate([kernel * (i + 1) for i in range(4)]),
            (
                same,
                rows,
            ),
        )

    def gradients(function):
        conv = layer(function, "3x3")
        loss = jax.grad(lambda *given: jnp.sum(jnp.tanh(conv(*given))), (0, 1))
        shared = jax.shard_map(loss, mesh=mesh, in_specs=specs, out_specs=specs)
        return cpu.jit(shared)(x, kernel)

    wanted = gradients(jax.lax.conv_general_dilated)
    found = gradients(convolutions.conv_general_dilated)
    chex.assert_trees_all_close(found, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", GROUPED)
def test_a_divided_batch(active, x64, name):
    """Groups have as many images of each device: none is moved."""
    x, kernel = drawn(name, jnp.float64, images=4 * GROUPED[name])
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def gradient(function, kernel, x):
        conv = layer(function, name)
        with cpu.divided_among(4):
            return jax.grad(lambda k: jnp.sum(jnp.tanh(conv(x, k))))(kernel)

    divided = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    ours = functools.partial(gradient, convolutions.conv_general_dilated)
    assert operations(ours, kernel, x).count("conv_general_dilated[") >= 4
    compiled = cpu.jit(ours).lower(kernel, divided).compile()
    wanted = jax.jit(functools.partial(gradient, jax.lax.conv_general_dilated))(
        kernel, x
    )
    np.testing.assert_allclose(
        compiled(kernel, divided), wanted, rtol=1e-10, atol=1e-10
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
        # So is what only `jax.vmap` knows to be divided.
        each = jax.jit(jax.vmap(conv, (0, None)))(divided[:, None], kernel)
    np.testing.assert_allclose(found, cpu.jit(maps)(x), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(each[:, 0], conv(x, kernel), rtol=1e-12, atol=1e-12)


def test_explanations_are_the_same(monkeypatch, x64):
    """The similarity of a network's explanations, with and without."""
    from tiny import build_paired

    from introspect_jax.models import init_variables, make_logits_fn

    net = build_paired(4)
    params, state = init_variables(net, (8, 8, 3), jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    y = jnp.arange(6) % 4

    def target(x):
        logits_fn = make_logits_fn(net, {"params": params, **state})
        return introspect(logits_fn, x, y).probs

    before = cpu.jit(target)(x)
    assert "conv3x3_pairs" not in operations(target, x)
    monkeypatch.setattr(cpu, "active", True)
    assert "conv3x3_pairs" in operations(lambda x: target(x), x)
    chex.assert_trees_all_close(
        cpu.jit(lambda x: target(x))(x), before, rtol=1e-5, atol=1e-6
    )


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
