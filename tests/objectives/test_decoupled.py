"""The two parts of a teacher's divergence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.objectives import losses, targets

RANDOM = np.random.RandomState(5)
Z, TEACHER = RANDOM.normal(size=(2, 6, 7)) * 4
Y = np.array([0, 3, 6, 3, 1, 2], np.int32)
ROWS = np.arange(6)


def softmax(z):
    weights = np.exp(z - z.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


tckd, nckd = jax.jit(losses.tckd), jax.jit(losses.nckd)


@jax.jit
def whole_and_decoupled(z, temperature, rest):
    """`[2, batch]` and its gradients `[2, batch, classes]`."""

    def whole(z):
        target = targets.teacher_target(TEACHER, temperature)
        return losses.distillation(z, Y, target, temperature)

    def decoupled(z):
        of_label = losses.tckd(z, Y, TEACHER, temperature)
        return of_label + rest * losses.nckd(z, Y, TEACHER, temperature)

    values, pull = jax.vjp(lambda z: jnp.stack([whole(z), decoupled(z)]), z)
    ones = jnp.eye(2)[:, :, None] * jnp.ones((1, 1, len(Y)))
    return values, jax.vmap(pull)(ones)[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_their_weighted_sum_is_the_whole_divergence(temperature):
    """KD = TCKD + (1 - p^t_y) NCKD, and so does the gradient of DKD at alpha = 1 and
    beta = 1 - p^t_y."""
    rest = 1 - softmax(TEACHER / temperature)[ROWS, Y]

    values, grads = whole_and_decoupled(Z, temperature, rest)
    np.testing.assert_allclose(*values, rtol=1e-10)
    np.testing.assert_allclose(*grads, rtol=0, atol=1e-10)
    assert np.abs(grads).max() > 0.1


def test_a_certain_teacher_keeps_what_it_says_of_the_others():
    """Its other classes have probabilities below the smallest float32, and its label a
    logit from which the released code could not mask it by subtracting 1000."""
    teacher = TEACHER.astype("f4")
    teacher[ROWS, Y] = 5000.0
    values = nckd(Z.astype("f4"), Y, teacher)
    others = np.ones((6, 7), bool)
    others[ROWS, Y] = False
    q, p = (softmax(z[others].reshape(6, 6)) for z in (TEACHER, Z))
    np.testing.assert_allclose(values, (q * np.log(q / p)).sum(-1), rtol=1e-5)
    # TCKD is then -log p_y of the student.
    values = tckd(Z.astype("f4"), Y, teacher)
    np.testing.assert_allclose(values, -np.log(softmax(Z)[ROWS, Y]), rtol=1e-5)


def test_a_certain_student():
    """`-log(1 - s_y)` where `s_y` rounds to 1: z_y less the others, not infinite."""
    student, teacher = np.zeros((2, 1, 4), "f4")
    student[0, 0] = 60.0
    t = 0.25
    wanted = t * np.log(t) + (1 - t) * (np.log(1 - t) + 60 - np.log(3))
    found = tckd(student, np.array([0]), teacher)
    np.testing.assert_allclose(found, [wanted], rtol=1e-6)


def test_two_classes_have_no_others():
    np.testing.assert_array_equal(nckd(Z[:, :2], Y % 2, TEACHER[:, :2]), 0)


def test_the_teacher_gets_no_gradient():
    def both(teacher):
        return (losses.tckd(Z, Y, teacher) + losses.nckd(Z, Y, teacher)).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(both))(TEACHER), 0)


@pytest.mark.untyped
def test_messages():
    logits = Z.astype("f4")
    with pytest.raises(ValueError, match=r"teacher_logits must be \[6, 7\]"):
        losses.tckd(logits, Y, logits[:, :6])
    with pytest.raises(ValueError, match="temperature must be above 0"):
        losses.nckd(logits, Y, logits, 0.0)
