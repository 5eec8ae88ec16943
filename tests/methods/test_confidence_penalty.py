import numpy as np
import pytest
from harness import batch, ce, images, log_probs, loss, make

from introspect_jax.errors import UserError


def test_it_is_by_its_formula():
    """The entropy is a sum over classes, not a mean, which would be 4 times less."""
    method = make("confidence_penalty", weight=0.5)
    value, (_, _, metrics) = loss(method)
    logs = log_probs(method, images())
    entropy = -(np.exp(logs) * logs).sum(-1)
    wanted = ce(batch(method)["label"], logs) - 0.5 * entropy
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["output_entropy"], entropy.mean(), rtol=1e-5)
    assert metrics["loss_weights"] == 1.5


def test_a_negative_weight():
    with pytest.raises(UserError, match=r"weight must lie in \[0, inf\), got -0.1"):
        make("confidence_penalty", weight=-0.1)
