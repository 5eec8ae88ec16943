import numpy as np
from harness import batch, ce, images, log_probs, loss, make


def test_it_is_the_mean_cross_entropy():
    method = make("standard")
    value, (_, method_state, metrics) = loss(method)
    wanted = ce(batch(method)["label"], log_probs(method, images()))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    assert method_state == {}
    assert metrics["target_entropy"] == 0
    assert metrics["target_true_mass"] == 1
    assert metrics["loss_weights"] == 1
