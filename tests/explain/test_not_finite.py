"""A number that is not finite stays in its example, and in its class."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, ConvNet
from marks import slow_but

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    EXPLANATIONS,
    SIMILARITIES,
    Cosine,
    Explanation,
    Gradient,
    Map,
    Probes,
    SmoothGrad,
    Top,
)

W = jax.random.normal(jax.random.key(0), (12, 5))
X = jax.random.normal(jax.random.key(1), (4, 12))
Y = jnp.arange(4)
BAD = [jnp.nan, jnp.inf]


def logits_fn(x):
    return jnp.tanh(x @ W)


def change_of_the_others(function, inputs, bad):
    """The largest change of the rows 1 to 3 when row 0 is bad."""
    spoilt = inputs.at[(0,) * inputs.ndim].set(bad)
    clean, dirty = np.asarray(function(inputs)), np.asarray(function(spoilt))
    assert np.isfinite(clean).all()
    return np.abs(clean[1:] - dirty[1:]).max()


@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
@pytest.mark.parametrize("bad", BAD, ids=str)
def test_integrated_gradients_in_chunks(bad, jitted):
    def maps(x):
        return explain_fn(logits_fn, x, Y, "integrated_gradients", chunk_size=10)

    assert change_of_the_others(jax.jit(maps) if jitted else maps, X, bad) == 0.0


@pytest.mark.parametrize(
    "name", slow_but(("grad_cam", "smoothgrad", "vargrad"), sorted(EXPLANATIONS))
)
def test_every_explanation_in_chunks(name):
    net = ConvNet()

    @jax.jit
    def both(x):
        options = {"key": KEY, "chunk_size": 2, "class_chunk_size": 2}
        explanation = net.explanation(name)
        maps = explain_fn(net, x, "all", explanation, **options)
        similar = class_similarity(net, x, LABELS, explanation, "cosine", **options)
        return jnp.concatenate([maps.reshape(4, -1), similar], axis=1)

    for bad in BAD:
        assert change_of_the_others(both, net.inputs, bad) == 0.0


@pytest.mark.parametrize(
    "similarity",
    [*SIMILARITIES, Cosine(norms=Probes(4)), Cosine(norms=Top(2))],
    ids=lambda s: s if isinstance(s, str) else type(s.norms).__name__,
)
def test_every_similarity_in_chunks(similarity):
    @jax.jit
    def similar(x):
        return class_similarity(
            logits_fn,
            x,
            Y,
            SmoothGrad(num_samples=4),
            similarity,
            key=KEY,
            chunk_size=2,
            class_chunk_size=2,
        )

    for bad in BAD:
        assert change_of_the_others(similar, X, bad) == 0.0


def test_a_class_that_is_not_finite_spoils_no_other():
    @dataclasses.dataclass(frozen=True, eq=False)
    class OneBad(Explanation):
        linear = False

        def bind(self, problem):
            gradient = Gradient().bind(problem)

            def maps(cotangents):
                bad = jnp.where(cotangents[..., :1] == 1, jnp.nan, 0.0)
                return gradient(cotangents) + bad

            return Map(problem, maps)

    maps = explain_fn(logits_fn, X, "all", OneBad(), class_chunk_size=1)
    assert np.isnan(maps[:, 0]).all()
    wanted = explain_fn(logits_fn, X, "all")
    np.testing.assert_array_equal(maps[:, 1:], wanted[:, 1:])


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_what_is_not_a_number_is_not_called_vanished(similarity):
    found = class_similarity(
        logits_fn, X.at[0, 0].set(jnp.nan), Y, similarity=similarity
    )
    assert np.isnan(found[0]).all()
    assert np.isfinite(found[1:]).all()
