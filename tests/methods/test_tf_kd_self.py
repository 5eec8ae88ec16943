import numpy as np
import pytest
from harness import batch, ce, images, kl, log_probs, loss, make, teacher_probs

from introspect_jax.errors import UserError


@pytest.mark.parametrize(("form", "factor"), [("paper", 1.0), ("released", 50 / 4)])
def test_both_forms(form, factor):
    method = make("tf_kd_self", form=form, alpha=0.6, temperature=3.0)
    value, (_, _, metrics) = loss(method)
    hard = ce(batch(method)["label"], log_probs(method, images()))
    soft = kl(teacher_probs(images(), 3.0), log_probs(method, images(), 3.0))
    wanted = 0.4 * hard + 0.6 * factor * 9 * soft
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["loss_weights"], 0.4 + 0.6 * factor, rtol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": "release"}, "did you mean 'released'"),
        ({"alpha": -0.1}, r"alpha must lie in \[0, 1\]"),
        ({"temperature": 0.0}, r"temperature must lie in \(0, inf\)"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("tf_kd_self", **options)
