"""Distances of maps and features, and ensembles of branches."""

import golden_features
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden import EXAMPLES, inputs
from jax.test_util import check_grads

from introspect_jax.objectives.ensembles import ensemble_loss, gated_ensemble
from introspect_jax.objectives.features import (
    attention_distance,
    attention_map,
    feature_distance,
    map_factors,
)
from introspect_jax.objectives.losses import cross_entropy

RANDOM = np.random.RandomState(5)
MAPS = RANDOM.normal(size=(3, 4, 6, 5))
SAME, SMALL, MIXED = (
    RANDOM.normal(size=(3, *size, 2)) for size in ((4, 6), (2, 3), (8, 2))
)
GATES = RANDOM.dirichlet(np.ones(3), EXAMPLES)
GIVEN = inputs()
LABELS = np.array(GIVEN["labels"])
ENSEMBLE = jax.jit(ensemble_loss)
LOGITS = np.array(
    [GIVEN[name] for name in ("logits", "teacher_logits", "other_logits")]
)


@pytest.mark.usefixtures("x64")
def test_golden_distances():
    distance = jax.jit(attention_distance)
    for other in (SAME, SMALL, MIXED):
        wanted = [
            golden_features.attention_distance(*pair)
            for pair in zip(MAPS, other, strict=True)
        ]
        np.testing.assert_allclose(distance(MAPS, other), wanted, rtol=1e-10)
        np.testing.assert_allclose(distance(other, MAPS), wanted, rtol=1e-10)
    wanted = [golden_features.attention(m) for m in MAPS]
    np.testing.assert_allclose(attention_map(MAPS), wanted, rtol=1e-10)
    rows, others = MAPS.reshape(3, -1), SAME.reshape(3, -1)
    rows = rows[:, : others.shape[1]]
    wanted = list(map(golden_features.feature_distance, rows, others))
    np.testing.assert_allclose(feature_distance(rows, others), wanted, rtol=1e-10)


def golden_ensemble(weight):
    return [
        golden_features.native_ensemble(
            LABELS[n], LOGITS[:, n].tolist(), GATES[n].tolist(), weight
        )
        for n in range(EXAMPLES)
    ]


@pytest.mark.usefixtures("x64")
def test_golden_ensemble():
    for weight in (0.0, 0.7):
        loss, metrics = ENSEMBLE(LOGITS, GATES, LABELS, weight=weight)
        np.testing.assert_allclose(loss, golden_ensemble(weight), rtol=1e-10)
    wanted = cross_entropy(np.einsum("bm,mbk->bk", GATES, LOGITS), LABELS)
    np.testing.assert_allclose(metrics["ensemble_cross_entropy"], wanted, rtol=1e-10)
    one, _ = ENSEMBLE(LOGITS[:1], np.ones((EXAMPLES, 1)), LABELS)
    np.testing.assert_allclose(one, 2 * cross_entropy(LOGITS[0], LABELS), rtol=1e-14)


@pytest.mark.usefixtures("x64")
def test_gradients():
    distance = jax.jit(attention_distance)
    check_grads(distance, (MAPS, SMALL), order=1, modes=["rev"])

    @jax.jit
    @jax.grad
    def of_gates(gates, weight):
        return ensemble_loss(LOGITS, gates, LABELS, weight=weight)[0].sum()

    def gates_of(weight):
        """The gradient that the gate gets: the divergence has no part in it."""
        return of_gates(jnp.asarray(GATES), weight)

    np.testing.assert_array_equal(gates_of(0.0), gates_of(2.0))
    assert np.abs(gates_of(0.0)).max() > 0.1


@pytest.mark.parametrize("scale", [0.0, 1e-15, 1e-8, 1e9])
def test_attention_of_any_scale(scale):
    """It does not depend on the scale, and of nothing it has no gradient."""
    maps = jnp.asarray(MAPS * scale, jnp.float32)
    value, pull = jax.vjp(lambda m: attention_distance(m, SAME), maps)
    (gradient,) = pull(jnp.ones_like(value))
    assert np.isfinite(gradient).all()
    if scale:
        np.testing.assert_allclose(value, attention_distance(MAPS, SAME), rtol=1e-5)
    else:
        np.testing.assert_array_equal(gradient, 0)


def test_a_class_of_probability_0_in_one_branch():
    logits = jnp.asarray(LOGITS, jnp.float32).at[1, :, 5].set(-jnp.inf)
    together = gated_ensemble(logits, GATES)
    np.testing.assert_array_equal(together[:, 5], -np.inf)

    @jax.jit
    @jax.grad
    def gradient(gates):
        return cross_entropy(gated_ensemble(logits, gates), LABELS)[0]

    assert np.isfinite(gradient(jnp.asarray(GATES, jnp.float32))).all()


def test_ignored_examples_have_no_loss():
    labels = np.where(np.arange(EXAMPLES) % 2, -1, LABELS)

    @jax.jit
    def both(logits):
        loss, pull = jax.vjp(lambda z: ensemble_loss(z, GATES, labels)[0], logits)
        return loss, *pull(jnp.ones_like(loss))

    loss, gradient = both(jnp.asarray(LOGITS, jnp.float32))
    np.testing.assert_array_equal(loss[1::2], 0)
    np.testing.assert_array_equal(gradient[:, 1::2], 0)
    assert (np.abs(gradient[:, ::2]).max(-1) > 0).all()


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attention_map(MAPS[0]), r"maps must be \[batch, h.*got float.*\[4, 6"),
        (lambda: attention_distance(MAPS, SAME[:2]), "the batch 3 of maps, got 2"),
        (lambda: map_factors((6, 4), (4, 4)), "maps of 6x4 and 4x4 .* divide"),
        (lambda: feature_distance(LOGITS[0], GATES), r"\[6, 7\] and float.*\[6, 3\]"),
        (lambda: gated_ensemble(LOGITS[0], GATES), r"\[branches, batch, classes\]"),
        (lambda: gated_ensemble(LOGITS, GATES.T), r"gates must be \[6, 3\]"),
        (
            lambda: ensemble_loss(LOGITS, GATES, LABELS, temperature=0.0),
            "temperature must be above 0",
        ),
        (
            lambda: ensemble_loss(LOGITS, GATES, LABELS, weight=-1.0),
            "weight must be at least 0",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, says):
    with pytest.raises(ValueError, match=says):
        call()
