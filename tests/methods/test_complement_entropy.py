import numpy as np
import pytest
from harness import batch, ce, images, log_probs, loss, make

from introspect_jax.errors import UserError


def others(method):
    """Outputs among the other classes, `[batch, 3]`."""
    logs = log_probs(method, images())
    rows = [np.delete(row, label % 4) for label, row in enumerate(logs)]
    probs = np.exp(rows)
    return logs, probs / probs.sum(-1, keepdims=True)


def test_as_distillation_of_the_uniform():
    method = make("complement_entropy", weight=0.5)
    value, (_, _, metrics) = loss(method)
    logs, rest = others(method)
    divergence = (np.log(1 / 3) - np.log(rest)).mean(-1)
    wanted = ce(batch(method)["label"], logs) + 0.5 * divergence
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target_entropy"], np.log(3), rtol=1e-6)
    assert metrics["target_true_mass"] == 0


def test_as_entropy():
    method = make("complement_entropy", weight=0.5, form="entropy")
    value, _ = loss(method)
    logs, rest = others(method)
    gap = np.log(3) + (rest * np.log(rest)).sum(-1)
    wanted = ce(batch(method)["label"], logs) + 0.5 * gap
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("classes", "options", "says"),
    [
        (4, {"weight": -1.0}, "weight must lie in"),
        (4, {"form": "entropi"}, "did you mean 'entropy'"),
        (2, {}, "the data have 2 classes"),
    ],
)
def test_options_out_of_range(classes, options, says):
    with pytest.raises(UserError, match=says):
        make("complement_entropy", classes, **options)
