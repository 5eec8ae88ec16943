"""Learning rates and updates by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.optimizers import default_config, make_optimizer, make_schedule


def rates(steps, **changes):
    config = default_config()
    config.learning_rate = 1.0
    config.update(changes)
    schedule = make_schedule(config, steps)
    return np.array([float(schedule(step)) for step in range(steps)])


def test_cosine():
    wanted = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(rates(8, schedule="cosine"), wanted, rtol=1e-5)


def test_linear():
    np.testing.assert_allclose(
        rates(4, schedule="linear"), [1, 0.75, 0.5, 0.25], rtol=1e-6
    )


def test_warmup_then_linear_to_zero_at_the_end():
    found = rates(10, schedule="linear", warmup=0.2)
    np.testing.assert_allclose(found, [0, 0.5, *np.arange(8, 0, -1) / 8], rtol=1e-6)


def test_warmup_then_cosine_over_the_rest():
    found = rates(10, schedule="cosine", warmup=0.2)
    rest = 0.5 * (1 + np.cos(np.pi * np.arange(8) / 8))
    np.testing.assert_allclose(found, [0, 0.5, *rest], rtol=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.2])
def test_steps_fall_at_shares_of_all_steps(warmup):
    found = rates(
        20, schedule="step", milestones=(0.5, 0.75), decay_factor=0.2, warmup=warmup
    )
    wanted = np.r_[np.ones(10), np.full(5, 0.2), np.full(5, 0.04)]
    wanted[: round(warmup * 20)] = np.arange(round(warmup * 20)) / 4
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_milestones_at_the_same_step_both_count():
    found = rates(4, schedule="step", milestones=(0.49, 0.51), decay_factor=0.1)
    np.testing.assert_allclose(found, [1, 1, 0.01, 0.01], rtol=1e-5)


@pytest.mark.parametrize("warmup", [0.0, 0.3])
def test_one_cycle_warms_up_once(warmup):
    found = rates(100, schedule="one_cycle", peak=0.3, warmup=warmup)
    assert found.argmax() == 30
    np.testing.assert_allclose(found[30], 1, rtol=1e-5)
    assert (np.diff(found[:31]) > 0).all()
    assert (np.diff(found[30:]) < 0).all()


def test_constant():
    np.testing.assert_allclose(rates(5, schedule="constant"), 1)


def updates(gradient, count=2, **changes):
    config = default_config()
    config.update({"learning_rate": 0.1, "weight_decay": 0.0} | changes)
    optimizer = make_optimizer(config, lambda step: config.learning_rate)
    params = {"kernel": jnp.array([2.0, -1.0])}
    state, found = optimizer.init(params), []
    for _ in range(count):
        update, state = optimizer.update({"kernel": gradient}, state, params)
        found.append(np.asarray(update["kernel"]))
    return found


def test_nesterov_momentum():
    gradient = jnp.array([1.0, 3.0])
    first, second = updates(gradient, momentum=0.5)
    np.testing.assert_allclose(first, -0.1 * 1.5 * gradient, rtol=1e-6)
    np.testing.assert_allclose(second, -0.1 * (1 + 0.5 * 1.5) * gradient, rtol=1e-6)


def test_clipping_bounds_the_norm():
    (found,) = updates(jnp.array([3.0, 4.0]), 1, momentum=0.0, clip_norm=1.0)
    np.testing.assert_allclose(found, [-0.06, -0.08], rtol=1e-5)


def test_sgd_decays_through_the_gradient_and_adamw_beside_it():
    zero = jnp.zeros(2)
    (found,) = updates(zero, 1, momentum=0.0, weight_decay=0.1)
    np.testing.assert_allclose(found, -0.1 * 0.1 * np.array([2.0, -1.0]), rtol=1e-6)
    ones = jnp.array([1.0, -1.0])
    (found,) = updates(ones, 1, name="adamw", weight_decay=0.1)
    wanted = -0.1 * (np.array([1.0, -1.0]) + 0.1 * np.array([2.0, -1.0]))
    np.testing.assert_allclose(found, wanted, rtol=1e-4)
