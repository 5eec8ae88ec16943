"""What holds for every explanation method, on small random networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, LINEAR, SAMPLED, ConvNet, explain
from jax.test_util import check_grads

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain.attribution import METHODS
from introspect_jax.explain.similarity import SIMILARITIES, similarity_path
from introspect_jax.explain.targets import contrast, top


@pytest.fixture
def net():
    return ConvNet()


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("method", LINEAR)
    def test_linear_in_the_cotangent(self, net, method):
        a, b = jax.random.normal(jax.random.key(1), (2, 4, 5))
        together = explain(net, a - 3 * b, method)
        apart = explain(net, a, method) - 3 * explain(net, b, method)
        np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_does_not_depend_on_how_the_batch_is_cut(self, net, method):
        whole = explain(net, LABELS, method)
        part = explain_fn(
            net,
            net.inputs[2:],
            LABELS[2:],
            index=jnp.array([2, 3]),
            **net.options(method),
        )
        np.testing.assert_allclose(part, whole[2:], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("similarity", "post"),
        [(similarity, {}) for similarity in SIMILARITIES]
        + [
            ("cosine", {"channel_sum": True}),
            ("cosine", {"pool": 2}),
            ("cosine", {"mask": jnp.arange(6.0).reshape(6, 1) > 2}),
            ("projection", {"center": True}),
            ("projection", {"nonlinearity": "absolute"}),
        ],
        ids=lambda value: (
            value if isinstance(value, str) else next(iter(value), "plain")
        ),
    )
    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_similarity_equals_all_explanations(self, net, method, post, similarity):
        if method == "grad_cam" and ("mask" in post):
            post = {"mask": jnp.arange(6.0).reshape(6, 1)}
        options = net.options(method) | post
        maps = explain_fn(net, net.inputs, "all", **options)
        maps = np.asarray(maps).reshape(4, 5, -1)
        own = maps[np.arange(4), LABELS]
        wanted = np.einsum("bkp,bp->bk", maps, own)
        if similarity == "projection":
            wanted = wanted / (own**2).sum(-1, keepdims=True)
        if similarity == "cosine":
            norms = np.linalg.norm(maps, axis=-1) * np.linalg.norm(
                own, axis=-1, keepdims=True
            )
            wanted = wanted / norms
        for chunks in ({}, {"class_chunk_size": 2}):
            found = class_similarity(
                net, net.inputs, LABELS, similarity=similarity, **options, **chunks
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("method", ["gradient", *SAMPLED])
    def test_last_layer_norms(self, net, method):
        head = (
            lambda x: (net.maps(x) ** 2).mean((1, 2)),
            lambda h: h @ net.params[1],
            net.params[1],
        )
        compute = functools.partial(
            class_similarity,
            net,
            net.inputs,
            LABELS,
            similarity="cosine",
            **net.options(method),
        )
        found = compute(norms="last_layer", head=head)
        np.testing.assert_allclose(found, compute(), rtol=1e-9, atol=1e-10)

    def test_top_norms_are_exact_where_they_are_taken(self, net):
        compute = functools.partial(
            class_similarity, net, net.inputs, LABELS, similarity="cosine"
        )
        exact, dot = (
            compute(),
            class_similarity(net, net.inputs, LABELS, similarity="dot"),
        )
        np.testing.assert_allclose(compute(norms="top:5"), exact, rtol=1e-10)
        largest = np.argsort(-np.abs(dot), axis=-1)[:, :2]
        found = compute(norms="top:2")
        np.testing.assert_allclose(
            np.take_along_axis(np.asarray(found), largest, 1),
            np.take_along_axis(np.asarray(exact), largest, 1),
            rtol=1e-10,
        )
        assert not np.allclose(found, exact)

    def test_probes_converge_as_they_say(self, net):
        compute = functools.partial(
            class_similarity, net, net.inputs, LABELS, similarity="cosine"
        )
        exact = np.asarray(compute())
        for count in (16, 256):
            found = np.asarray(compute(norms=f"probes:{count}", key=KEY))
            # Estimated are the norms under the root: half the relative deviation.
            error = (found / exact - 1).std()
            assert 0.1 < error / (0.5 * np.sqrt(2 / count)) < 2.5
        again = compute(norms="probes:16", key=KEY, class_chunk_size=5)
        np.testing.assert_allclose(
            again, compute(norms="probes:16", key=KEY), rtol=1e-10
        )

    @pytest.mark.parametrize("chunk_size", [None, 2])
    @pytest.mark.parametrize("method", LINEAR)
    def test_differentiable_in_the_parameters(self, net, method, chunk_size):
        options = net.options(method) | {"chunk_size": chunk_size}

        def total(params):
            if method == "grad_cam":
                options["head"] = (
                    lambda x: net.maps(x, params),
                    lambda h: net.top(h, params),
                    None,
                )
            return class_similarity(
                lambda x: net(x, params), net.inputs, LABELS, **options
            )

        check_grads(total, (net.params,), order=1, modes=["rev"], rtol=1e-4)

    @pytest.mark.parametrize("method", ["gradient", "gradient_x_input", *SAMPLED])
    def test_custom_vjp(self, net, method):
        @jax.custom_vjp
        def clipped(x):
            return jnp.clip(x, -1, 1)

        clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (2 * g,))
        options = net.options(method)

        def logits_fn(x):
            return net(clipped(x))

        maps = np.asarray(explain_fn(logits_fn, net.inputs, "all", **options))
        maps = maps.reshape(4, 5, -1)
        wanted = np.einsum("bkp,bp->bk", maps, maps[np.arange(4), LABELS])
        found = class_similarity(
            logits_fn, net.inputs, LABELS, similarity="dot", **options
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)

    def test_targets(self, net):
        logits = np.asarray(net(net.inputs))
        every = np.asarray(explain(net, "all", "gradient"))
        order = np.argsort(-logits, axis=-1)[:, :3]
        np.testing.assert_allclose(
            explain(net, top(3), "gradient"), every[np.arange(4)[:, None], order]
        )
        rows = np.arange(4)
        np.testing.assert_allclose(
            explain(net, contrast(LABELS, 1), "gradient"),
            every[rows, LABELS] - every[:, 1],
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bfloat16_network(net, method):
    def low(x):
        return net(x.astype(jnp.bfloat16))

    options = net.options(method)
    if method == "grad_cam":
        options["head"] = (
            lambda x: net.maps(x.astype(jnp.bfloat16)).astype(jnp.float32),
            lambda h: net.top(h.astype(jnp.bfloat16)),
            None,
        )
    compute = functools.partial(
        class_similarity, inputs=net.inputs, labels=LABELS, similarity="cosine"
    )
    found = compute(low, **options)
    assert found.dtype == jnp.float32
    wanted = compute(net, **net.options(method))
    np.testing.assert_allclose(found, wanted, atol=2e-2)


def test_paths_can_be_asked_for():
    assert similarity_path() == "vjp and transpose"
    assert similarity_path(similarity="cosine") == "all classes"
    assert similarity_path(similarity="cosine", norms="last_layer") == "last layer"
    assert "8 probes" in similarity_path(similarity="cosine", norms="probes:8")
    assert "3 classes" in similarity_path(similarity="cosine", norms="top:3")
    assert similarity_path("vargrad", "dot") == "all classes"
    assert similarity_path(nonlinearity="absolute") == "all classes"
