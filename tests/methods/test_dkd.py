import numpy as np
import pytest
from harness import batch, ce, images, kl, log_probs, loss, make, teacher_probs

from introspect_jax.errors import UserError

LABELS = np.arange(8) % 4


def parts(method):
    """CE, TCKD and NCKD, each `[8]`, at T = 4 and times T^2."""
    hard = ce(batch(method)["label"], log_probs(method, images()))
    t, s = teacher_probs(images(), 4.0), np.exp(log_probs(method, images(), 4.0))
    rows = np.arange(8)
    on = [np.stack([p[rows, LABELS], 1 - p[rows, LABELS]], -1) for p in (t, s)]
    others = LABELS[:, None] != np.arange(4)
    off = [p[others].reshape(8, 3) for p in (t, s)]
    off = [p / p.sum(-1, keepdims=True) for p in off]
    return hard, 16 * kl(on[0], np.log(on[1])), 16 * kl(off[0], np.log(off[1]))


@pytest.mark.parametrize(
    ("options", "step", "weight"),
    [({}, 99, 1.0), ({}, 2, 2 * 12 / 100), ({"ramp_up": 0.0}, 0, 1.0)],
)
def test_it_is_by_its_formula(options, step, weight):
    """A hundred steps, over a twelfth of which the weight grows."""
    method = make("dkd", alpha=2.0, beta=3.0, **options)
    value, (_, _, metrics) = loss(method, step=step)
    hard, of_label, of_others = parts(method)
    wanted = hard + weight * (2 * of_label + 3 * of_others)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["tckd"], of_label.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["nckd"], of_others.mean(), rtol=1e-3)
    np.testing.assert_allclose(metrics["loss_weights"], 1 + weight * 5, rtol=1e-6)
    own = teacher_probs(images(), 4.0)[np.arange(8), LABELS]
    np.testing.assert_allclose(metrics["target_true_mass"], own.mean(), rtol=1e-5)


def test_the_first_step_is_standard_training():
    assert loss(make("dkd"))[0] == loss(make("standard"))[0]


@pytest.mark.parametrize(
    ("classes", "given", "options", "says"),
    [
        (4, {}, {"beta": -1.0}, r"dkd\.beta must lie in \[0, inf\)"),
        (4, {}, {"ramp_up": 1.5}, r"dkd\.ramp_up must lie in \[0, 1\]"),
        (4, {"mixes_examples": True}, {}, "mixup and cutmix"),
        (2, {}, {}, r"the data have 2 classes.*--config\.method\.name=kd"),
    ],
)
def test_bad_input(classes, given, options, says):
    with pytest.raises(UserError, match=says):
        make("dkd", classes, given, **options)
