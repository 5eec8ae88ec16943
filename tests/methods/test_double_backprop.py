import numpy as np
import pytest
from harness import make
from jax.test_util import check_grads
from smooth import Linear, Smooth, made

from introspect_jax.errors import UserError


@pytest.mark.usefixtures("x64")
def test_it_is_by_its_formula():
    """Of a linear network, dCE/dx = W (p - y)."""
    _, params, loss, given = made("double_backprop", Linear(), weight=0.3)
    value, (_, _, metrics) = loss(params)
    kernel, bias = (np.asarray(params["Dense_0"][name]) for name in ("kernel", "bias"))
    logits = np.asarray(given["image"]).reshape(8, -1) @ kernel + bias
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = np.asarray(given["label"])
    penalty = (((probs - labels) @ kernel.T) ** 2).sum(-1)
    hard = -(labels * np.log(probs)).sum(-1)
    np.testing.assert_allclose(value, (hard + 0.3 * penalty).mean(), rtol=1e-10)
    np.testing.assert_allclose(metrics["gradient_penalty"], penalty.mean(), rtol=1e-10)
    assert metrics["loss_weights"] == 1.3


@pytest.mark.usefixtures("x64")
def test_its_gradient_is_that_of_differences():
    """Through the statistics of the batch too."""
    _, params, loss, _ = made("double_backprop", Smooth(norm=True), weight=2.0)
    check_grads(lambda p: loss(p)[0], (params,), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_an_ignored_example_does_not_count():
    """A network without batch statistics: the loss is that of the others."""
    _, params, loss, given = made("double_backprop", Smooth())
    some = given | {"label": given["label"].at[5:].set(0)}
    others = {k: v if k == "constants" else v[:5] for k, v in given.items()}
    np.testing.assert_allclose(
        loss(params, some)[0], loss(params, others)[0], rtol=1e-12
    )


def test_a_negative_weight():
    with pytest.raises(UserError, match=r"weight must lie in \[0, inf\), got -1"):
        make("double_backprop", weight=-1.0)
