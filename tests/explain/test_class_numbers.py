"""Class numbers of any type, ignored labels, labels that do not exist, one-hot rows."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import class_similarity, explain_fn, introspect, loss_fn
from introspect_jax.explain import SIMILARITIES, Absolute, Gradient, metrics
from introspect_jax.explain.agreement import agreement_beyond, rank_agreement
from introspect_jax.explain.similarity import logit_similarity, weight_row_similarity
from introspect_jax.explain.targets import contrast, log_probability

W = jax.random.normal(jax.random.key(0), (12, 5))
X = jax.random.normal(jax.random.key(1), (4, 12))
Y = jnp.arange(4)
IGNORED = jnp.array([0, -1, 2, 3])


def logits_fn(x):
    return jnp.tanh(x @ W)


@pytest.mark.parametrize(
    "dtype",
    ["uint8", *(pytest.param(d, marks=pytest.mark.slow) for d in ("int8", "uint32"))],
)
def test_class_numbers_of_any_type(dtype):
    """More classes than fit into 8 bits, where numbers would wrap around."""
    kernel = jax.random.normal(jax.random.key(2), (12, 300))

    def many(x):
        return x @ kernel

    labels = jnp.array([5, 100, 77, 0])
    narrow = labels.astype(dtype)
    for function in (
        lambda y: explain_fn(many, X, y),
        lambda y: explain_fn(many, X, log_probability(y)),
        lambda y: explain_fn(many, X, contrast(y, 3)),
        lambda y: class_similarity(many, X, y),
        lambda y: weight_row_similarity(kernel, y),
        lambda y: introspect(many, X, y).probs,
        lambda y: metrics.deletion(
            lambda x: many(x.reshape(len(x), 12)),
            X.reshape(4, 3, 4, 1),
            y,
            X.reshape(4, 3, 4, 1),
            num_steps=2,
        ),
        lambda y: metrics.random_logit_similarity(
            many, X, y, class_key=jax.random.key(0)
        ),
        lambda y: rank_agreement(many(X), many(X) ** 2, y)["example"],
        lambda y: rank_agreement(many(X), many(X) ** 2, y)["class"],
    ):
        run = jax.jit(function)
        np.testing.assert_array_equal(run(narrow), run(labels))


def test_an_ignored_label():
    maps = explain_fn(logits_fn, X, IGNORED)
    np.testing.assert_array_equal(maps[1], 0)
    others = np.array([0, 2, 3])
    np.testing.assert_array_equal(maps[others], explain_fn(logits_fn, X, Y)[others])
    for similarity in SIMILARITIES:
        for explanation in ("gradient", Absolute(Gradient())):
            found = class_similarity(logits_fn, X, IGNORED, explanation, similarity)
            wanted = class_similarity(logits_fn, X, Y, explanation, similarity)
            np.testing.assert_array_equal(found[1], 0)
            np.testing.assert_allclose(found[others], wanted[others], rtol=1e-5)
    score = explain_fn(logits_fn, X, log_probability(IGNORED))
    np.testing.assert_array_equal(score[1], 0)
    values = metrics.completeness_error(logits_fn, X, IGNORED, maps)
    np.testing.assert_array_equal(np.isnan(values), [False, True, False, False])
    agreed = rank_agreement(logits_fn(X), logits_fn(X) ** 2, IGNORED)
    np.testing.assert_array_equal(
        np.isnan(agreed["example"]), [False, True, False, False]
    )
    beyond = agreement_beyond(X[:, :5], X[:, 5:10], X[:, 7:], IGNORED)
    assert np.isnan(beyond[1])


@pytest.mark.parametrize("support", ["others", "all"])
@pytest.mark.parametrize("jitted", [False, True], ids=["eager", "jit"])
def test_an_ignored_label_has_no_loss_and_no_gradient(support, jitted):
    def losses(kernel):
        def network(x):
            return jnp.tanh(x @ kernel)

        target = introspect(network, X, IGNORED, support=support, stop_gradient=False)
        loss, _ = loss_fn(network(X), IGNORED, target, weight=0.5)
        return loss, target.degenerate

    run = jax.jit(losses) if jitted else losses
    loss, degenerate = run(W)
    assert loss[1] == 0.0
    assert (loss[np.array([0, 2, 3])] > 0).all()
    np.testing.assert_array_equal(degenerate, [False, True, False, False])
    gradient = jax.grad(lambda kernel: run(kernel)[0][1])(W)
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("bad", [5, -2, 1000])
def test_a_label_that_does_not_exist(bad):
    labels = jnp.array([0, 1, 2, bad])
    functions = {
        "maps": lambda y: explain_fn(logits_fn, X, y),
        "score": lambda y: explain_fn(logits_fn, X, log_probability(y)),
        "similarity": lambda y: class_similarity(logits_fn, X, y),
        "dot": lambda y: class_similarity(logits_fn, X, y, similarity="dot"),
        "cosine": lambda y: class_similarity(logits_fn, X, y, similarity="cosine"),
        "rows": lambda y: weight_row_similarity(W, y),
        "logits": lambda y: logit_similarity(logits_fn(X), y),
        "target": lambda y: introspect(logits_fn, X, y).probs,
    }
    for name, function in functions.items():
        with pytest.raises(ValueError, match=r"0\.\.4 \(or be -1: no label\)"):
            function(labels)
        found = np.asarray(jax.jit(function)(labels))
        assert np.isnan(found[3]).all(), name
        assert np.isfinite(found[:3]).all(), name


def test_integer_one_hot_labels():
    one_hot = np.eye(5, dtype=np.int32)[np.arange(4)]
    for function in (
        lambda y: class_similarity(logits_fn, X, y),
        lambda y: introspect(logits_fn, X, y).probs,
        lambda y: weight_row_similarity(W, y),
        lambda y: logit_similarity(logits_fn(X), y),
    ):
        np.testing.assert_array_equal(function(one_hot), function(Y))
    # For a target several ints are several classes; that it was meant is not likely.
    with pytest.raises(ValueError, match="looks one-hot"):
        explain_fn(logits_fn, X, one_hot)
    np.testing.assert_array_equal(
        explain_fn(logits_fn, X, one_hot.astype(np.float32)),
        explain_fn(logits_fn, X, Y),
    )


@pytest.mark.untyped
def test_labels_of_another_shape_are_named():
    for labels in (Y[:3], jnp.zeros((4, 3)), Y[None], jnp.zeros((3, 5))):
        with pytest.raises(ValueError, match=r"labels must be ints \[4\] or prob"):
            class_similarity(logits_fn, X, labels)
        with pytest.raises(ValueError, match=r"labels must be ints \[4\] or prob"):
            introspect(logits_fn, X, labels)
    with pytest.raises(ValueError, match=r"target must be an int, ints \[4\]"):
        explain_fn(logits_fn, X, Y[:3])
    with pytest.raises(ValueError, match=r"maps must have 4 rows"):
        metrics.completeness_error(logits_fn, X, Y, X[:3])
    with pytest.raises(ValueError, match=r"labels must be ints \[4\]"):
        rank_agreement(logits_fn(X), logits_fn(X), Y[:3])
    with pytest.raises(ValueError, match="all of one shape"):
        rank_agreement(logits_fn(X), logits_fn(X)[:, :4], Y)
