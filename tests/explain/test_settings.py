"""JAX's switches, empty batches, and explanations as pytrees."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, ConvNet
from marks import slow_but
from test_sharded import (
    FUNCTIONS,
    IMAGE_FUNCTIONS,
    IMAGES,
    QUICK,
    X,
    Y,
)

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    Absolute,
    ChannelSum,
    Cosine,
    ExpectedGradients,
    Gradient,
    IntegratedGradients,
    LastLayer,
    Mask,
    Probes,
    SmoothGrad,
)

ALL = {**FUNCTIONS, **IMAGE_FUNCTIONS}
NEEDS_EXAMPLES = {"noise", "sensitivity"}  # their arrays have 8 rows


def inputs_of(name):
    return X if name in FUNCTIONS else IMAGES


@pytest.mark.parametrize("name", slow_but(QUICK, sorted(set(ALL) - NEEDS_EXAMPLES)))
def test_an_empty_batch(name):
    inputs = inputs_of(name)
    full = jax.eval_shape(ALL[name], inputs, Y)
    empty = ALL[name](inputs[:0], Y[:0])
    if name == "rank agreement":
        assert np.isnan(empty).all()  # of classes, none of which has examples
        return
    axis = 1 if name == "randomisation" else 0
    wanted = list(full.shape)
    wanted[axis] = 0
    assert list(empty.shape) == wanted
    assert empty.dtype == full.dtype


@pytest.mark.parametrize("name", ["similarity", "probes", "chunks", "deletion", "loss"])
def test_without_jit(name):
    inputs = inputs_of(name)
    wanted = jax.jit(ALL[name])(inputs, Y)
    with jax.disable_jit():
        np.testing.assert_allclose(ALL[name](inputs, Y), wanted, rtol=1e-4, atol=1e-6)


# Of a class with one example nothing is specific to it: not a number.
@pytest.mark.parametrize("name", slow_but(QUICK, sorted(set(ALL) - {"beyond"})))
def test_no_nan_on_the_way(name):
    """Nor anything that strict promotion refuses, also under `jit`."""
    with jax.debug_nans(True):
        assert np.isfinite(jax.jit(ALL[name])(inputs_of(name), Y)).all()


def test_float64():
    with jax.enable_x64(True):
        for name in ("similarity", "probes", "smoothgrad chunks", "loss"):
            found = jax.jit(ALL[name])(jnp.asarray(X, jnp.float32), Y)
            assert np.isfinite(found).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("name", ["gradient", "grad_cam", "smoothgrad"])
def test_half_precision_inputs(name, dtype):
    net = ConvNet()
    low, explanation = net.inputs.astype(dtype), net.explanation(name)

    @jax.jit
    def both(x):
        maps = explain_fn(net, x, LABELS, explanation, key=KEY)
        return maps, class_similarity(net, x, LABELS, explanation, key=KEY)

    maps, similar = both(low)
    assert (maps.dtype, similar.dtype) == (dtype, jnp.float32)
    wanted, _ = both(net.inputs)
    scale = np.abs(wanted).max()
    np.testing.assert_allclose(maps.astype(jnp.float32), wanted, atol=0.1 * scale)


class TestPyTrees:
    @pytest.fixture
    def explanation(self):
        return IntegratedGradients(num_steps=3, baseline=jnp.full((4, 6, 2), 0.5))

    def test_arrays_are_leaves_and_the_rest_is_static(self, explanation):
        nested = Absolute(ChannelSum(explanation))
        leaves, tree = jax.tree.flatten(nested)
        assert len(leaves) == 1
        again = jax.tree.unflatten(tree, leaves)
        assert again.explanation.explanation.num_steps == 3
        chex.assert_trees_all_equal(again, nested)
        assert jax.tree.leaves(SmoothGrad(8)) == []
        assert len(jax.tree.leaves(Cosine(norms=LastLayer(jnp.tanh, np.eye(3))))) == 1
        path = jax.tree_util.tree_leaves_with_path(nested)[0][0]
        assert jax.tree_util.keystr(path) == ".explanation.explanation.baseline"

    def test_through_jit(self, explanation):
        net = ConvNet()

        @jax.jit
        @chex.assert_max_traces(n=1)
        def maps(x, explanation):
            return explain_fn(net, x, LABELS, explanation)

        for value in (0.5, -1.0):
            moved = dataclasses.replace(
                explanation, baseline=jnp.full((4, 6, 2), value)
            )
            wanted = explain_fn(net, net.inputs, LABELS, moved)
            found = maps(net.inputs, moved)
            np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)

    def test_through_vmap_and_grad(self, explanation):
        net = ConvNet()

        @jax.jit
        def total(explanation):
            maps = explain_fn(net, net.inputs, LABELS, explanation)
            return (maps**2).sum()

        several = jax.tree.map(lambda b: jnp.stack([b, 2 * b, 0 * b]), explanation)
        found = jax.vmap(total)(several)
        for i in range(3):
            one = jax.tree.map(lambda b, i=i: b[i], several)
            np.testing.assert_allclose(found[i], total(one), rtol=1e-4)
        gradient = jax.grad(total)(explanation)
        assert isinstance(gradient, IntegratedGradients)
        assert np.abs(gradient.baseline).max() > 0

    def test_frozen_and_compared_by_identity(self, explanation):
        with pytest.raises(dataclasses.FrozenInstanceError):
            explanation.num_steps = 4
        assert explanation != dataclasses.replace(explanation)
        assert len({explanation, explanation}) == 1

    def test_every_object_is_a_pytree(self):
        data = jnp.ones((3, 4))
        for node in (
            Gradient(),
            ExpectedGradients(data),
            Mask(Gradient(), data),
            Probes(4),
            Cosine(norms=Probes(4)),
        ):
            doubled = jax.tree.map(lambda leaf: 2 * leaf, node)
            assert type(doubled) is type(node)
            for leaf in jax.tree.leaves(doubled):
                np.testing.assert_array_equal(leaf, 2 * data)
