import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.objectives.targets import (
    as_probs,
    similarity_target,
    smooth_labels,
)

LABELS = jnp.array([0, 2, 1])


def test_both_conventions_of_label_smoothing():
    uniform = smooth_labels(LABELS, 4, 0.2)
    np.testing.assert_allclose(uniform[0], [0.85, 0.05, 0.05, 0.05], rtol=1e-6)
    others = smooth_labels(LABELS, 4, 0.15, "others")
    np.testing.assert_allclose(others, uniform, rtol=1e-6)  # e (K - 1) / K
    np.testing.assert_allclose(others.sum(-1), 1, rtol=1e-6)
    with pytest.raises(ValueError, match="did you mean 'uniform'"):
        smooth_labels(LABELS, 4, 0.1, "unifrm")


def test_temperature_sharpens():
    scores = jnp.array([[1.0, 0.2, -0.4, 0.0]] * 3)
    cold, warm = (
        similarity_target(scores, LABELS, temperature=t).probs for t in (0.05, 50.0)
    )
    assert cold[0, 1] > 0.95
    np.testing.assert_allclose(warm[0, 1:], 1 / 3, atol=0.01)
    np.testing.assert_allclose(cold.sum(-1), 1, rtol=1e-6)
    assert (np.asarray(cold)[np.arange(3), LABELS] == 0).all()


def test_unknown_similarities_give_a_uniform_row_and_are_counted():
    scores = jnp.array([[0.0] * 4, [0.3, 0.1, 1.0, 0.2], [0.0] * 4])
    target = similarity_target(scores, LABELS)
    np.testing.assert_allclose(target.probs[0], [0, 1 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    np.testing.assert_array_equal(target.degenerate, [True, False, True])


def test_soft_labels_leave_out_all_their_classes():
    labels = jnp.array([[0.7, 0.3, 0, 0], [0.25] * 4])
    target = similarity_target(jnp.array([[1.0, 0.9, 0.1, 0.1]] * 2), labels)
    np.testing.assert_allclose(target.probs[0], [0, 0, 0.5, 0.5], rtol=1e-6)
    np.testing.assert_array_equal(target.probs[1], 0)
    np.testing.assert_array_equal(target.degenerate, [False, True])


def test_extreme_similarities_stay_finite():
    scores = jnp.array([[1.0, 1e30, -1e30, 5.0]] * 3)
    probs = similarity_target(scores, LABELS, temperature=1e-3).probs
    assert np.isfinite(probs).all()
    np.testing.assert_allclose(probs.sum(-1), 1)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"support": "other"}, "did you mean"), ({"temperature": 0.0}, "above 0")],
)
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says):
        similarity_target(jnp.zeros((3, 4)), LABELS, **options)


def test_labels_of_another_shape():
    with pytest.raises(ValueError, match="labels must be"):
        as_probs(jnp.zeros((3, 5)), 4)
