"""Convolutions for CPUs on several devices, in networks, and not on accelerators."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from layers import GROUPED, drawn, layer, operations

from introspect_jax import convolutions, cpu, explain_fn, introspect
from introspect_jax.models import classifier


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
