"""The temperature at which a target has a wanted entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.objectives.losses import entropy
from introspect_jax.objectives.targets import matched_temperature, similarity_target

CLASSES = 6
LABELS = jnp.array([0, 1, 2, 3])
SCORES = jnp.asarray(np.random.RandomState(0).normal(size=(4, CLASSES)), jnp.float32)


@jax.jit
def match(scores, labels, wanted):
    """Entropies with the temperatures of `matched_temperature`, and the latter."""
    found = matched_temperature(scores, labels, wanted)
    target = similarity_target(scores, labels, temperature=found.temperature)
    return entropy(target.probs), found


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
@pytest.mark.parametrize("wanted", [0.0, 0.05, 0.9, 1.6, float(np.log(5))])
def test_the_entropy_is_what_was_asked_for(scale, wanted):
    """Similarities of any size in float32, between no entropy and all there is."""
    got, found = match(scale * SCORES + scale, LABELS, jnp.full(4, wanted))
    np.testing.assert_allclose(got, wanted, atol=1e-3)
    assert found.reached.all()
    assert jnp.isfinite(found.temperature).all()


def test_what_cannot_be_reached_is_approached_and_counted():
    """Rows: two ties at the top, all equal, mixed labels, one other class with mass."""
    scores = jnp.array(
        [
            [9.0, 1.0, 1.0, 0.9, 0.1, 0.0],
            [2.0] * 6,
            [0.3, 0.1, 0.5, 0.2, 0.9, 0.0],
            [1.0, -jnp.inf, -jnp.inf, -jnp.inf, -jnp.inf, 0.0],
        ]
    )
    labels = jnp.eye(CLASSES)[jnp.array([0, 0, 0, 0])].at[2, 1].set(0.4)
    low, found = match(scores, labels, jnp.full(4, 0.2))
    np.testing.assert_allclose(low, [np.log(2), np.log(5), 0.2, 0], atol=1e-3)
    np.testing.assert_array_equal(found.reached, [False, False, True, False])
    high, found = match(scores, labels, jnp.full(4, 1.7))
    np.testing.assert_allclose(high, [np.log(5), np.log(5), np.log(4), 0], atol=1e-3)
    assert not found.reached.any()


def test_nan_stays_nan_and_ignored_examples_do_not_count():
    scores = SCORES.at[1, 3].set(jnp.nan).at[2].set(jnp.nan)
    got, found = match(scores, LABELS.at[2].set(-1), jnp.array([1, 1, 1, jnp.nan]))
    np.testing.assert_array_equal(jnp.isnan(got), [False, True, False, True])
    np.testing.assert_array_equal(jnp.isnan(found.temperature), jnp.isnan(got))
    np.testing.assert_array_equal(found.reached, [True, False, True, False])
    assert found.temperature[2] == 1
    labels = jnp.array([0, -1, -1, 3])
    per_batch = jax.jit(lambda s, y: matched_temperature(s, y, 1.0, per="batch"))
    temperature, reached = per_batch(scores, labels)
    target = similarity_target(SCORES, labels, temperature=temperature)
    assert reached
    np.testing.assert_allclose(entropy(target.probs)[jnp.array([0, 3])].mean(), 1, 1e-3)
    assert jnp.isnan(per_batch(scores, LABELS).temperature)
    assert per_batch(scores, 0 * LABELS - 1) == (1, True)


def test_the_temperature_is_a_constant():
    def total(scores):
        temperature = matched_temperature(scores, LABELS, 0.9).temperature
        return temperature.sum() + (0 * scores).sum()

    np.testing.assert_array_equal(jax.jit(jax.grad(total))(SCORES), 0)


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        ((SCORES, LABELS, jnp.ones(3)), {}, r"entropy must be \[4\], got float32\[3\]"),
        ((SCORES, LABELS, 1.0), {"per": "exampel"}, "did you mean 'example'"),
        ((SCORES, LABELS, 1.0), {"steps": 0}, "steps must be at least 1, got 0"),
        ((SCORES, LABELS, 1.0), {"support": "al"}, "did you mean 'all'"),
        ((SCORES[:, :2], LABELS % 2, 1.0), {}, "needs at least 3 classes"),
    ],
)
def test_arguments(arguments, options, says):
    with pytest.raises(ValueError, match=says):
        matched_temperature(*arguments, **options)
