"""Against plain NumPy in float64, written from the formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from introspect_jax import loss_fn
from introspect_jax.objectives.losses import cross_entropy, entropy, kl_to_target
from introspect_jax.objectives.targets import SoftTarget, similarity_target

pytestmark = pytest.mark.usefixtures("x64")
LABELS = np.array([0, 2, 1])


@pytest.fixture
def logits():
    return np.random.RandomState(0).normal(size=(3, 5)) * 3


@pytest.fixture
def scores():
    return np.random.RandomState(1).normal(size=(3, 5))


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_cross_entropy(logits):
    wanted = [-np.log(softmax(logits)[i, y]) for i, y in enumerate(LABELS)]
    np.testing.assert_allclose(cross_entropy(logits, LABELS), wanted, rtol=1e-12)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_support_others(logits, scores, temperature):
    target = similarity_target(scores, LABELS, temperature=0.5)
    loss, parts = loss_fn(
        jnp.asarray(logits),
        LABELS,
        target,
        weight=0.3,
        student_temperature=temperature,
    )
    for i, label in enumerate(LABELS):
        kept = [k for k in range(5) if k != label]
        q = softmax(scores[i, kept] / 0.5)
        p = softmax(logits[i, kept] / temperature)
        hard = -np.log(softmax(logits)[i, label])
        soft = (q * np.log(q / p)).sum() * temperature**2
        np.testing.assert_allclose(loss[i], hard + 0.3 * soft, rtol=1e-10)
        np.testing.assert_allclose(parts["distillation"][i], soft, rtol=1e-10)
        np.testing.assert_allclose(
            parts["target_entropy"][i], -(q * np.log(q)).sum(), rtol=1e-10
        )
    np.testing.assert_array_equal(parts["target_true_mass"], 0)


def test_support_all_is_cross_entropy_with_the_mixture(logits, scores):
    target = similarity_target(scores, LABELS, support="all")
    loss, _ = loss_fn(jnp.asarray(logits), LABELS, target, weight=0.3)
    q = softmax(scores / 0.5)
    mixed = 0.7 * np.eye(5)[LABELS] + 0.3 * q
    wanted = -(mixed * np.log(softmax(logits))).sum(-1)
    np.testing.assert_allclose(loss, wanted, rtol=1e-10)


def test_divergence_is_zero_at_equality_and_ignores_the_true_logit(logits, scores):
    target = similarity_target(scores, LABELS, temperature=0.5)
    match = scores / 0.5
    match[np.arange(3), LABELS] = 17.0
    _, parts = loss_fn(jnp.asarray(match), LABELS, target)
    np.testing.assert_allclose(parts["distillation"], 0, atol=1e-12)


def test_scale_does_not_depend_on_batch_or_unlikely_classes(logits, scores):
    target = similarity_target(scores, LABELS)
    run = jax.jit(loss_fn)
    loss, _ = run(jnp.asarray(logits), LABELS, target)
    one = SoftTarget(target.probs[:1], target.degenerate[:1], target.support)
    np.testing.assert_allclose(
        run(jnp.asarray(logits[:1]), LABELS[:1], one)[0], loss[:1], rtol=1e-12
    )
    # A thousand classes that neither the target nor the network believes in.
    wide_logits = np.concatenate([logits, np.full((3, 1000), -60.0)], axis=1)
    wide_scores = np.concatenate([scores, np.full((3, 1000), -60.0)], axis=1)
    wide, _ = run(
        jnp.asarray(wide_logits), LABELS, similarity_target(wide_scores, LABELS)
    )
    np.testing.assert_allclose(wide, loss, rtol=1e-8)


def test_an_empty_support_costs_nothing_and_has_finite_gradients(logits):
    def total(z):
        mask = jnp.zeros((3, 5), bool)
        return kl_to_target(z, jnp.zeros((3, 5)), mask).sum()

    value, grads = jax.value_and_grad(total)(jnp.asarray(logits))
    assert value == 0
    np.testing.assert_array_equal(grads, 0)


def test_entropy():
    probs = jnp.array([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1 / 3] * 3])
    np.testing.assert_allclose(entropy(probs), [np.log(2), 0, np.log(3)], atol=1e-12)


@pytest.mark.parametrize("support", ["others", "all"])
def test_gradients(logits, scores, support):
    target = similarity_target(scores, LABELS, support=support)
    check_grads(
        lambda z: loss_fn(z, LABELS, target, weight=0.4, student_temperature=2.0)[0],
        (jnp.asarray(logits),),
        order=1,
        modes=["rev"],
    )


def test_float32_inside(logits, scores):
    target = similarity_target(jnp.asarray(scores, jnp.float32), LABELS)
    loss, _ = loss_fn(jnp.asarray(logits, jnp.bfloat16), LABELS, target)
    assert loss.dtype == jnp.float32
