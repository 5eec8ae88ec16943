"""A logit of -inf is a class of probability 0: as with -1e9, and never NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every import CLASSES, LOGITS, LOSSES, MEANS, SCORES, everything

from introspect_jax.objectives import losses, targets
from introspect_jax.objectives.targets import SoftTarget, teacher_target

LABELS = np.array([0, 3, 2, 3])
# A class in each row that is not the label: two of them in the last.
MASKED = np.zeros((4, CLASSES), bool)
MASKED[[0, 1, 2, 3, 3], [1, 4, 0, 1, 2]] = True


def masked(logits, value):
    return np.where(MASKED, np.float32(value), logits)


def test_cross_entropy_of_a_masked_class():
    logits = np.array([[1, 2, -np.inf, 0.5]], "f4")
    loss = losses.cross_entropy(logits, np.array([1]))
    np.testing.assert_allclose(loss, [0.4644], atol=5e-5)
    grads = jax.grad(lambda z: losses.cross_entropy(z, np.array([1]))[0])(logits)
    p = np.exp([1, 2, 0.5]) / np.exp([1, 2, 0.5]).sum()
    np.testing.assert_allclose(grads[0], [p[0], p[1] - 1, 0, p[2]], atol=1e-6)


def without_mass():
    """Losses whose target is made with the same mask."""

    scores = masked(SCORES, -np.inf)
    teacher = teacher_target(scores, 2.0)

    def loss_fn(logits, support):
        target = targets.similarity_target(scores, LABELS, support=support)
        return losses.loss_fn(logits, LABELS, target, student_temperature=3.0)[0]

    def mutual(z):
        other = jnp.where(MASKED, jnp.minimum(z, SCORES), SCORES)
        return losses.mutual_divergence(jnp.stack([z, other]), 2.0).sum(0)

    return {
        "cross_entropy": lambda z: losses.cross_entropy(z, LABELS),
        "others": lambda z: loss_fn(z, "others"),
        "all": lambda z: loss_fn(z, "all"),
        "teacher": lambda z: losses.distillation(z, LABELS, teacher, 2.0),
        "penalty": losses.confidence_penalty,
        "complement": lambda z: losses.complement_entropy(z, LABELS),
        "mutual": mutual,
    }


@pytest.mark.parametrize(
    "name",
    [
        "cross_entropy",
        "others",
        "all",
        "teacher",
        "penalty",
        "complement",
        "mutual",
    ],
)
def test_losses_and_gradients_are_those_of_a_very_small_logit(name):
    loss = without_mass()[name]

    @jax.jit
    def both(logits):
        values, pull = jax.vjp(loss, logits)
        return values, pull(jnp.ones_like(values))[0]

    values, grads = both(masked(LOGITS, -np.inf))
    wanted, wanted_grads = both(masked(LOGITS, -1e9))
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(values, wanted, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(grads, wanted_grads, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(grads)[MASKED], 0)
    np.testing.assert_allclose(loss(masked(LOGITS, -np.inf)), values, rtol=1e-6)


def test_no_loss_is_nan_and_mass_on_a_masked_class_costs_infinity():
    found = everything(masked(LOGITS, -np.inf), LABELS)
    assert found.keys() == LOSSES.keys()
    for name, (values, grads) in found.items():
        assert not np.isnan(values).any(), name
        assert np.isfinite(grads).all(), name
    for name in ("from_teacher", "mutual", "distil_smooth_uniform", "distil_past"):
        np.testing.assert_array_equal(found[name][0], np.inf, err_msg=name)
    label = np.array([1, 3, 2, 3])
    loss = losses.cross_entropy(masked(LOGITS, -np.inf), label)
    np.testing.assert_array_equal(np.isinf(loss), [True, False, False, False])


@pytest.mark.parametrize("support", ["others", "all"])
def test_targets_of_masked_scores(support):
    for value in (-np.inf, -1e9):
        scores = masked(SCORES, value)
        target = targets.similarity_target(scores, LABELS, support=support)
        np.testing.assert_array_equal(np.asarray(target.probs)[MASKED], 0)
        np.testing.assert_allclose(target.probs.sum(-1), 1, rtol=1e-6)
    probs = teacher_target(masked(SCORES, -np.inf), 2.0).probs
    np.testing.assert_allclose(
        probs, teacher_target(masked(SCORES, -1e9), 2.0).probs, rtol=1e-6
    )

    def total(scores):
        target = targets.similarity_target(scores, LABELS, support=support)
        return jnp.sum(target.probs * MEANS[:4])

    grads = jax.grad(total)(masked(SCORES, -np.inf))
    wanted = jax.grad(total)(masked(SCORES, -1e9))
    np.testing.assert_allclose(grads, wanted, rtol=1e-5, atol=1e-7)


def test_rows_without_any_class():
    logits = np.full((2, 3), -np.inf, "f4")
    labels = np.array([0, -1])
    np.testing.assert_array_equal(losses.cross_entropy(logits, labels), [np.inf, 0])
    np.testing.assert_array_equal(losses.confidence_penalty(logits), 0)
    target = targets.similarity_target(logits, labels)
    np.testing.assert_array_equal(target.probs, 0)
    np.testing.assert_array_equal(target.degenerate, True)


def test_a_term_without_weight_is_left_out():
    logits = np.array([[1, 2, -np.inf, 0.5]], "f4")
    probs = jnp.array([[0.0, 0.0, 0.5, 0.5]])
    labels = np.array([1])
    for support in ("others", "all"):
        target = SoftTarget(probs, jnp.zeros(1, bool), support)
        loss, parts = losses.loss_fn(logits, labels, target, weight=0.0)
        np.testing.assert_allclose(loss, [0.4644], atol=5e-5)
        assert np.isinf(parts["distillation"]).all()
        assert np.isinf(losses.loss_fn(logits, labels, target, weight=0.1)[0]).all()


def test_what_is_nan_is_seen():
    logits = np.array(LOGITS)
    logits[1, 0] = np.nan
    for name, (values, _) in everything(logits, LABELS).items():
        np.testing.assert_array_equal(
            np.isnan(values), [False, True, False, False], err_msg=name
        )
