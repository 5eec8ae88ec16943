import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import SIMILARITIES, Cosine, Exact, LastLayer

NAMES = ["gradient", "gradient_x_input"]  # all of them: test_all_explanations.py


def by_all_explanations(logits_fn, inputs, labels, name, similarity, center):
    """The definition: explain every class, then compare."""
    maps = np.asarray(explain_fn(logits_fn, inputs, "all", name, center=center))
    maps = maps.reshape(*maps.shape[:2], -1)
    own = maps[np.arange(len(maps)), np.asarray(labels)]
    inner = np.einsum("bkp,bp->bk", maps, own)
    if similarity == "dot":
        return inner
    norm = np.linalg.norm(own, axis=-1, keepdims=True)
    if similarity == "projection":
        return inner / norm**2
    return inner / (np.linalg.norm(maps, axis=-1) * norm)


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("center", [False, True])
    @pytest.mark.parametrize("similarity", SIMILARITIES)
    @pytest.mark.parametrize("name", NAMES)
    def test_equals_all_explanations(self, smooth_net, name, similarity, center):
        logits_fn, inputs, labels, _ = smooth_net
        found = class_similarity(
            logits_fn,
            inputs,
            labels,
            name,
            similarity,
            center=center,
        )
        wanted = by_all_explanations(
            logits_fn, inputs, labels, name, similarity, center
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)

    @pytest.mark.parametrize("similarity", SIMILARITIES)
    def test_custom_vjp(self, smooth_net, similarity):
        _, inputs, labels, _ = smooth_net
        kernel = jax.random.normal(jax.random.key(7), (18, 5))

        @jax.custom_vjp
        def clipped(x):
            return jnp.clip(x, -1, 1)

        # A straight-through estimator: not the derivative of its own forward pass.
        clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (2 * g,))

        def logits_fn(x):
            return jnp.sin(clipped(x.reshape(len(x), -1)) @ kernel)

        found = class_similarity(logits_fn, inputs, labels, similarity=similarity)
        wanted = by_all_explanations(
            logits_fn, inputs, labels, "gradient", similarity, False
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)

    @pytest.mark.optimised
    @pytest.mark.parametrize("similarity", SIMILARITIES)
    def test_inside_shard_map(self, smooth_net, similarity):
        logits_fn, inputs, labels, _ = smooth_net
        mesh = Mesh(np.asarray(jax.devices()[:4]), ("data",))
        data = PartitionSpec("data")
        compute = functools.partial(class_similarity, logits_fn, similarity=similarity)
        sharded = jax.jit(
            jax.shard_map(compute, mesh=mesh, in_specs=(data, data), out_specs=data)
        )
        np.testing.assert_allclose(
            sharded(inputs, labels), compute(inputs, labels), rtol=1e-10, atol=1e-10
        )

    @pytest.mark.parametrize("center", [False, True])
    @pytest.mark.parametrize("name", NAMES)
    def test_last_layer_norms_are_exact(self, name, center):
        keys = jax.random.split(jax.random.key(1), 4)
        first = jax.random.normal(keys[0], (6, 3))
        kernel = jax.random.normal(keys[1], (3, 8))
        inputs = jax.random.normal(keys[2], (5, 6))
        labels = jax.random.randint(keys[3], (5,), 0, 8)

        def features_fn(x):
            return jnp.tanh(x @ first)

        def head_fn(h):
            return h @ kernel + 1.0

        compute = functools.partial(
            class_similarity,
            lambda x: head_fn(features_fn(x)),
            inputs,
            labels,
            name,
            center=center,
        )
        np.testing.assert_allclose(
            compute(Cosine(norms=LastLayer(features_fn, kernel))),
            compute(Cosine(norms=Exact())),
            rtol=1e-10,
            atol=1e-10,
        )

    def test_linear_model_by_hand(self):
        # Explanations are the columns: (3, 4), (4, 3), (-3, -4).
        kernel = jnp.array([[3.0, 4.0, -3.0], [4.0, 3.0, -4.0]])
        inputs = jnp.array([[0.3, -0.7]])
        found = functools.partial(class_similarity, lambda x: x @ kernel, inputs)
        zero = jnp.array([0])
        np.testing.assert_allclose(found(zero, similarity="dot"), [[25, 24, -25]])
        np.testing.assert_allclose(found(zero), [[1, 0.96, -1]])
        np.testing.assert_allclose(found(zero, similarity="cosine"), [[1, 0.96, -1]])

    def test_soft_labels_compare_with_the_mixture(self, smooth_net):
        logits_fn, inputs, _, classes = smooth_net
        soft = jax.nn.softmax(jax.random.normal(jax.random.key(3), (4, classes)))
        maps = explain_fn(logits_fn, inputs, "all").reshape(4, classes, -1)
        own = jnp.einsum("bk,bkp->bp", soft, maps)
        wanted = jnp.einsum("bkp,bp->bk", maps, own) / (own**2).sum(-1, keepdims=True)
        np.testing.assert_allclose(
            class_similarity(logits_fn, inputs, soft), wanted, rtol=1e-10
        )

    def test_cosine_is_bounded_and_one_for_the_label(self, smooth_net):
        logits_fn, inputs, labels, _ = smooth_net
        found = class_similarity(logits_fn, inputs, labels, similarity="cosine")
        assert np.abs(found).max() <= 1 + 1e-12
        np.testing.assert_allclose(found[np.arange(4), labels], 1, rtol=1e-12)


def test_a_vanished_explanation_gives_zeros_and_finite_gradients():
    def similarity_sum(kernel, kind):
        def logits_fn(x):
            return jax.nn.relu(x) @ kernel

        # The first example has no active unit: its gradients are all zero.
        inputs = jnp.array([[-1.0, -2.0], [1.0, 2.0]])
        found = class_similarity(logits_fn, inputs, jnp.array([0, 1]), similarity=kind)
        return found.sum(), found

    kernel = jnp.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]])
    for kind in SIMILARITIES:
        of_kind = functools.partial(similarity_sum, kind=kind)
        grads, found = jax.jit(jax.grad(of_kind, has_aux=True))(kernel)
        np.testing.assert_array_equal(found[0], [0, 0, 0])
        assert (np.asarray(found[1]) != 0).all()
        assert np.isfinite(grads).all()


def test_a_class_without_explanation_has_no_cosine():
    kernel = jnp.array([[1.0, 0.0, 3.0], [0.5, 0.0, -1.0]])
    found = class_similarity(
        lambda x: x @ kernel, jnp.ones((1, 2)), jnp.array([0]), similarity="cosine"
    )
    assert found[0, 1] == 0
    assert np.isfinite(found).all()


@pytest.mark.parametrize("similarity", ["projection", "cosine"])
def test_the_scale_of_the_network_does_not_matter(smooth_net, similarity):
    logits_fn, inputs, labels, _ = smooth_net
    compute = functools.partial(
        class_similarity, inputs=inputs, labels=labels, similarity=similarity
    )
    wanted = compute(logits_fn)
    for scale in (2.0**-40, 2.0**-20, 2.0**20, 2.0**40):
        found = compute(lambda x, s=scale: s * logits_fn(x))
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"similarity": "cosin"}, "did you mean 'cosine'"),
        ({"similarity": Cosine}, r"did you mean Cosine\(\)"),
        ({"similarity": 3}, "an object of introspect_jax.explain or a name, got 3"),
        ({"labels": jnp.zeros((4, 2), jnp.int32)}, "labels must be"),
        ({"labels": jnp.array([0, 1, 2, 5])}, "0..4"),
    ],
)
def test_bad_input(smooth_net, options, says):
    logits_fn, inputs, labels, _ = smooth_net
    labels = options.pop("labels", labels)
    with pytest.raises(ValueError, match=says):
        class_similarity(logits_fn, inputs, labels, **options)
