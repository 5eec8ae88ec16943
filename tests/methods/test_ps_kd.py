import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import batch, ce, images, log_probs, loss, make

from introspect_jax.errors import UserError


def test_at_first_the_label_is_the_target():
    method = make("ps_kd")
    value, (_, method_state, metrics) = loss(method, step=99)
    logs = log_probs(method, images())
    wanted = ce(batch(method)["label"], logs)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    assert metrics["target_entropy"] == 0
    # What was said is remembered, of the examples of the batch and no others.
    memory = np.asarray(method_state["memory"])
    assert memory.shape == (24, 4)
    np.testing.assert_allclose(memory[:8], np.exp(logs), rtol=1e-4)
    np.testing.assert_array_equal(memory[8:], 0)


@pytest.mark.parametrize(("step", "alpha"), [(10, 0.8 * 2 / 10), (99, 0.8)])
def test_then_what_was_said_before(step, alpha):
    """Ten steps an epoch, ten epochs: epoch t has the weight 0.8 t / 10."""
    method = make("ps_kd")
    params, model_state, _ = method.init(jax.random.key(1))
    past = jnp.asarray(np.random.RandomState(0).dirichlet(np.ones(4), 24), jnp.float32)
    states = params, model_state, {"memory": past}
    given = batch(method) | {"index": np.arange(8) * 3}
    value, (_, _, metrics) = loss(method, given, step, states)
    targets = (1 - alpha) * np.asarray(given["label"]) + alpha * past[::3]
    wanted = ce(targets, log_probs(method, images()))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["alpha"], alpha, rtol=1e-6)


def test_options_out_of_range():
    with pytest.raises(UserError, match=r"alpha must lie in \[0, 1\], got 1.2"):
        make("ps_kd", alpha=1.2)
    with pytest.raises(UserError, match="mixup and cutmix"):
        make("ps_kd", given={"mixes_examples": True})
