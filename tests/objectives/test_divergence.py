"""The divergence keeps its digits at any temperature, in float32 against float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.objectives import losses, targets
from introspect_jax.objectives.targets import teacher_target

RANDOM = np.random.RandomState(0)
STUDENT, TEACHER = (RANDOM.normal(size=(256, 100)).astype("f4") for _ in range(2))
LABELS = np.arange(256) % 100
TEMPERATURES = [0.01, 0.1, 1.0, 10.0, 50.0, 100.0, 300.0, 1000.0]


def log_softmax(z, mask):
    z = np.where(mask, z - z.max(-1, where=mask, initial=-np.inf, keepdims=True), 0)
    return z - np.log(np.exp(z).sum(-1, where=mask, keepdims=True))


def reference(student, teacher, temperature, mask):
    """`(T^2 KL, its gradient)` in float64."""
    logs = log_softmax(np.float64(student) / temperature, mask)
    target_logs = log_softmax(np.float64(teacher) / temperature, mask)
    q = np.where(mask, np.exp(target_logs), 0)
    value = (q * (target_logs - logs)).sum(-1) * temperature**2
    return value, (np.where(mask, np.exp(logs), 0) - q) * temperature


def whole(student, teacher, temperature):
    target = teacher_target(teacher, temperature)
    return losses.distillation(student, LABELS, target, temperature)


def others(student, teacher, temperature):
    target = targets.similarity_target(teacher, LABELS, temperature=temperature)
    return losses.distillation(student, LABELS, target, temperature)


def mutual(student, teacher, temperature):
    return losses.mutual_divergence(jnp.stack([student, teacher]), temperature)[0]


FORMS = {"whole": whole, "others": others, "mutual": mutual}


@pytest.fixture(scope="module", params=FORMS)
def form(request):
    loss = FORMS[request.param]

    @jax.jit
    def both(student, teacher, temperature):
        values, pull = jax.vjp(lambda z: loss(z, teacher, temperature), student)
        return values, pull(jnp.ones_like(values))[0]

    mask = np.ones(STUDENT.shape, bool)
    if request.param == "others":
        mask[np.arange(256), LABELS] = False
    return both, mask


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_values_and_gradients(form, temperature):
    both, mask = form
    values, grads = both(STUDENT, TEACHER, temperature)
    wanted, wanted_grads = reference(STUDENT, TEACHER, temperature, mask)
    assert values.dtype == grads.dtype == jnp.float32
    tolerance = 1e-3 if temperature <= 100 else 1e-2
    np.testing.assert_allclose(values, wanted, rtol=tolerance)
    # What is reached: the rounding of q is all that is lost.
    np.testing.assert_allclose(values, wanted, rtol=1e-6 + 3e-8 * temperature)
    np.testing.assert_allclose(grads, wanted_grads, atol=1e-5, rtol=0)


@pytest.mark.parametrize("temperature", TEMPERATURES)
def test_a_student_equal_to_its_teacher(form, temperature):
    both, _ = form
    values, grads = both(TEACHER, TEACHER, temperature)
    assert (np.asarray(values) >= -1e-6 * temperature**2).all()
    np.testing.assert_allclose(values, 0, atol=1e-6 * temperature**2)
    np.testing.assert_allclose(values / temperature**2, 0, atol=1e-12)
    np.testing.assert_allclose(grads, 0, atol=2e-6 * max(1, temperature / 100))


@pytest.mark.parametrize("shift", [80.0, 1e4, 1e30])
def test_a_student_far_from_its_teacher(form, shift):
    """A divergence that does not fit in exp."""
    both, mask = form
    student = np.array(STUDENT[:, ::-1])
    student[:, 7] += np.float32(shift)
    values, grads = both(student, TEACHER, 1.0)
    wanted, wanted_grads = reference(student, TEACHER, 1.0, mask)
    np.testing.assert_allclose(values, wanted, rtol=1e-6)
    np.testing.assert_allclose(grads, wanted_grads, atol=1e-6)


def test_classes_without_mass_that_the_student_prefers():
    probs = np.array([[0.25, 0.75, 0, 0], [1, 0, 0, 0], [1e-30, 1, 0, 0]], "f4")
    logits = np.array([[0, 0, 3, -1], [0, 0, 0, 0], [5, 0, -1, -2]], "f4")
    logs = log_softmax(np.float64(logits), np.ones((3, 4), bool))
    terms = [
        q * (np.log(q) - p) if q > 0 else 0
        for q, p in zip(np.float64(probs).ravel(), logs.ravel(), strict=True)
    ]
    wanted = np.reshape(terms, (3, 4)).sum(-1)
    np.testing.assert_allclose(losses.kl_to_target(logits, probs), wanted, rtol=1e-6)


def test_the_target_is_divided_by_its_sum():
    probs = np.array([[0.2, 0.3, 0.5]], "f4")
    logits = np.array([[1, 0, -1]], "f4")
    wanted = losses.kl_to_target(logits, probs)
    for factor in (0.5, 3.0, 1e3):
        scaled = losses.kl_to_target(logits, probs * np.float32(factor))
        np.testing.assert_allclose(scaled, wanted, rtol=1e-6)


def test_mass_outside_of_the_mask_costs_infinity():
    probs = np.array([[0.5, 0.5, 0], [0.5, 0.5, 0], [0, 0, 0]], "f4")
    mask = np.array([[True, True, False], [True, False, True], [True, True, True]])
    values = losses.kl_to_target(np.zeros((3, 3), "f4"), probs, mask)
    np.testing.assert_allclose(values, [0, np.inf, 0], atol=1e-7)


def test_gradients_of_the_target():
    """Where the target is not a constant, against a difference in float64."""

    def loss(scores, logits):
        target = targets.similarity_target(scores, LABELS[:4], temperature=2.0)
        return losses.distillation(logits, LABELS[:4], target, 2.0).sum()

    scores, logits = TEACHER[:4], STUDENT[:4]
    grads = jax.grad(loss)(scores, logits)
    mask = np.ones(scores.shape, bool)
    mask[np.arange(4), LABELS[:4]] = False

    def total(scores):
        return reference(logits, scores, 2.0, mask)[0].sum()

    for row, column in ((0, 5), (2, 2), (3, 99), (1, 0)):
        step = np.zeros(scores.shape)
        step[row, column] = 1e-5
        slope = (total(scores + step) - total(scores - step)) / 2e-5
        np.testing.assert_allclose(grads[row, column], slope, atol=1e-6)
