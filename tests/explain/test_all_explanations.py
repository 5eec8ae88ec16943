"""What holds for every explanation, on small random networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import CAMS, KEY, LABELS, LINEAR, SAMPLED, ConvNet, explain
from jax.test_util import check_grads

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    EXPLANATIONS,
    SIMILARITIES,
    Absolute,
    Centered,
    ChannelSum,
    Cosine,
    Exact,
    GradCAM,
    Gradient,
    HiResCAM,
    LastLayer,
    Mask,
    Pool,
    Probes,
    ReLU,
    SmoothGrad,
    Top,
)
from introspect_jax.explain.targets import contrast, top

# Post-maps of every explanation; the mask broadcasts to maps of 1 and 2 channels.
_MASK = jnp.arange(6.0).reshape(6, 1) > 2
POSTS = {
    "plain": lambda explanation: explanation,
    "channel sum": ChannelSum,
    "centered": Centered,
    "pool": lambda explanation: Pool(explanation, 2),
    "mask": lambda explanation: Mask(explanation, _MASK),
    "absolute": Absolute,
    "relu": ReLU,
    "nested": lambda explanation: Absolute(Pool(ChannelSum(explanation), 2)),
}


@pytest.fixture
def net():
    return ConvNet()


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("name", LINEAR)
    def test_linear_in_the_cotangent(self, net, name):
        a, b = jax.random.normal(jax.random.key(1), (2, 4, 5))
        together = explain(net, a - 3 * b, name)
        apart = explain(net, a, name) - 3 * explain(net, b, name)
        np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("name", sorted(EXPLANATIONS))
    def test_does_not_depend_on_how_the_batch_is_cut(self, net, name):
        whole = explain(net, LABELS, name)
        part = explain_fn(
            net,
            net.inputs[2:],
            LABELS[2:],
            net.explanation(name),
            index=jnp.array([2, 3]),
            key=KEY,
        )
        np.testing.assert_allclose(part, whole[2:], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("name", "similarity", "post", "center"),
        [
            (name, similarity, "plain", False)
            for name in sorted(EXPLANATIONS)
            for similarity in SIMILARITIES
        ]
        + [
            (name, "cosine", post, False)
            for name in ("gradient", "vargrad", "hires_cam")
            for post in POSTS
            if post != "plain"
        ]
        + [("smoothgrad", "projection", "plain", True)]
        + [("grad_cam", "projection", "absolute", True)],
    )
    def test_similarity_equals_all_explanations(
        self, net, name, similarity, post, center
    ):
        explanation = POSTS[post](net.explanation(name))
        execution = {"key": KEY, "center": center}
        maps = explain_fn(net, net.inputs, "all", explanation, **execution)
        maps = np.asarray(maps).reshape(4, 5, -1)
        own = maps[np.arange(4), LABELS]
        wanted = np.einsum("bkp,bp->bk", maps, own)
        if similarity == "projection":
            wanted = wanted / (own**2).sum(-1, keepdims=True)
        if similarity == "cosine":
            norms = np.linalg.norm(maps, axis=-1) * np.linalg.norm(
                own, axis=-1, keepdims=True
            )
            # 0 where there is nothing to compare, as behind a ReLU.
            wanted = np.divide(wanted, norms, np.zeros_like(norms), where=norms > 0)
        for chunks in ({}, {"class_chunk_size": 2}):
            found = class_similarity(
                net, net.inputs, LABELS, explanation, similarity, **execution, **chunks
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("name", ["gradient", *SAMPLED])
    def test_last_layer_norms(self, net, name):
        norms = LastLayer(lambda x: (net.maps(x) ** 2).mean((1, 2)), net.params[1])
        compute = functools.partial(
            class_similarity,
            net,
            net.inputs,
            LABELS,
            net.explanation(name),
            key=KEY,
        )
        found = compute(Cosine(norms=norms))
        np.testing.assert_allclose(
            found, compute(Cosine(norms=Exact())), rtol=1e-9, atol=1e-10
        )

    @pytest.mark.parametrize("name", CAMS)
    def test_last_layer_norms_are_of_explanations_of_the_input(self, net, name):
        norms = LastLayer(lambda x: (net.maps(x) ** 2).mean((1, 2)), net.params[1])
        explanation = Pool(net.explanation(name), 2)
        with pytest.raises(ValueError, match="explains a part of the network"):
            class_similarity(net, net.inputs, LABELS, explanation, Cosine(norms=norms))

    def test_top_norms_are_exact_where_they_are_taken(self, net):
        compute = functools.partial(class_similarity, net, net.inputs, LABELS)
        exact, dot = compute(similarity="cosine"), compute(similarity="dot")
        every = compute(similarity=Cosine(norms=Top(5)))
        np.testing.assert_allclose(every, exact, rtol=1e-10)
        largest = np.argsort(-np.abs(dot), axis=-1)[:, :2]
        found = compute(similarity=Cosine(norms=Top(2)))
        np.testing.assert_allclose(
            np.take_along_axis(np.asarray(found), largest, 1),
            np.take_along_axis(np.asarray(exact), largest, 1),
            rtol=1e-10,
        )
        assert not np.allclose(found, exact)

    def test_probes_converge_as_they_say(self, net):
        def compute(norms, **options):
            return np.asarray(
                class_similarity(
                    net, net.inputs, LABELS, "gradient", Cosine(norms=norms), **options
                )
            )

        exact = compute(Exact())
        for count in (16, 256):
            found = compute(Probes(count), key=KEY)
            # Estimated are the norms under the root: half the relative deviation.
            error = (found / exact - 1).std()
            assert 0.1 < error / (0.5 * np.sqrt(2 / count)) < 2.5
        again = compute(Probes(16), key=KEY, class_chunk_size=5)
        np.testing.assert_allclose(again, compute(Probes(16), key=KEY), rtol=1e-10)

    @pytest.mark.parametrize("chunk_size", [None, 2])
    @pytest.mark.parametrize("name", LINEAR)
    def test_differentiable_in_the_parameters(self, net, name, chunk_size):
        @jax.jit
        def total(params):
            return class_similarity(
                lambda x: net(x, params),
                net.inputs,
                LABELS,
                net.explanation(name, params),
                key=KEY,
                chunk_size=chunk_size,
            )

        check_grads(total, (net.params,), order=1, modes=["rev"], rtol=1e-4)

    @pytest.mark.parametrize("name", ["gradient", "gradient_x_input", *SAMPLED])
    def test_custom_vjp(self, net, name):
        @jax.custom_vjp
        def clipped(x):
            return jnp.clip(x, -1, 1)

        clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (2 * g,))
        explanation = net.explanation(name)

        def logits_fn(x):
            return net(clipped(x))

        maps = np.asarray(
            explain_fn(logits_fn, net.inputs, "all", explanation, key=KEY)
        )
        maps = maps.reshape(4, 5, -1)
        wanted = np.einsum("bkp,bp->bk", maps, maps[np.arange(4), LABELS])
        found = class_similarity(
            logits_fn, net.inputs, LABELS, explanation, "dot", key=KEY
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


@pytest.mark.parametrize("name", ["gradient", "grad_cam", "vargrad"])
def test_bfloat16_network(net, name):
    low = ConvNet()
    low.maps = lambda x, params=None: ConvNet.maps(
        net, x.astype(jnp.bfloat16), params
    ).astype(jnp.float32)
    low.top = lambda h, params=None: ConvNet.top(net, h.astype(jnp.bfloat16), params)

    def compute(network):
        @jax.jit
        def run(x):
            explanation = network.explanation(name)
            return class_similarity(network, x, LABELS, explanation, "cosine", key=KEY)

        return run(net.inputs)

    found = compute(low)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, compute(net), atol=2e-2)


def test_what_is_taken_can_be_asked_for():
    linear = {name for name, cls in EXPLANATIONS.items() if cls.linear}
    assert linear == set(LINEAR)
    assert Pool(Gradient(), 2).linear
    assert Centered(Gradient()).linear
    assert not Absolute(Gradient()).linear
    assert not Pool(Absolute(SmoothGrad()), 2).linear
    assert Cosine().passes == "all classes"
    assert "8 probes" in Cosine(norms=Probes(8)).passes
    assert "3 classes" in Cosine(norms=Top(3)).passes


def test_hires_cam_of_global_average_pooling_is_grad_cam(net):
    """Draelos and Carin 2020; with another head the two differ."""

    def head(h):
        return h.mean((1, 2)) @ net.params[1]

    def maps(cls, head):
        explanation = cls(net.maps, head)
        return explain_fn(lambda x: head(net.maps(x)), net.inputs, "all", explanation)

    np.testing.assert_allclose(
        maps(HiResCAM, head), maps(GradCAM, head), rtol=1e-4, atol=1e-6
    )
    assert not np.allclose(maps(HiResCAM, net.top), maps(GradCAM, net.top), rtol=1e-2)
