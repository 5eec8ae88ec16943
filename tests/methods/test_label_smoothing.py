import numpy as np
import pytest
from harness import batch, ce, images, log_probs, loss, make

from introspect_jax.errors import UserError


@pytest.mark.parametrize(
    ("spread", "true", "rest"),
    [("uniform", 0.85, 0.05), ("others", 0.8, 0.2 / 3)],
)
def test_it_is_by_its_formula(spread, true, rest):
    method = make("label_smoothing", epsilon=0.2, spread=spread)
    value, (_, _, metrics) = loss(method)
    labels = np.asarray(batch(method)["label"])
    targets = true * labels + rest * (1 - labels)
    wanted = ce(targets, log_probs(method, images()))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target_true_mass"], true, rtol=1e-6)
    entropy = -true * np.log(true) - 3 * rest * np.log(rest)
    np.testing.assert_allclose(metrics["target_entropy"], entropy, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epsilon": 1.0}, r"epsilon must lie in \[0, 1\), got 1.0"),
        ({"epsilon": -0.1}, r"epsilon must lie in"),
        ({"spread": "other"}, "did you mean 'others'"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("label_smoothing", **options)
