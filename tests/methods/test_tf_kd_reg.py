import jax
import numpy as np
import pytest
from harness import batch, ce, images, kl, log_probs, loss, make

from introspect_jax.errors import UserError
from introspect_jax.methods.tf_kd_reg import default_config
from introspect_jax.objectives.targets import virtual_teacher


def test_the_paper_form():
    method = make("tf_kd_reg", alpha=0.3, temperature=5.0, correct=0.9)
    value, _ = loss(method)
    labels = np.asarray(batch(method)["label"])
    virtual = (0.9 * labels + 0.1 / 3 * (1 - labels)) ** (1 / 5)
    virtual /= virtual.sum(-1, keepdims=True)
    wanted = 0.7 * ce(labels, log_probs(method, images())) + 0.3 * 25 * kl(
        virtual, log_probs(method, images(), 5.0)
    )
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)


def test_the_released_form_is_label_smoothing():
    """Equal gradients: it is no other objective, only another scale."""
    method = make("tf_kd_reg", form="released", alpha=0.5, multiplier=1.0)
    scale = 0.5 + 0.5 / 4
    other = 1 / (3 + np.exp((0.99 - 0.01 / 3) / 20))  # of the virtual teacher
    epsilon = 4 * 0.5 / 4 * other / scale
    smoothing = make("label_smoothing", epsilon=epsilon)

    def gradient(method, factor):
        params, *states = method.init(jax.random.key(1))
        return jax.grad(lambda p: factor * loss(method, states=(p, *states))[0])(params)

    found, wanted = gradient(method, 1.0), gradient(smoothing, scale)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    metrics = loss(method)[1][2]
    np.testing.assert_allclose(metrics["loss_weights"], scale, rtol=1e-6)


def test_the_published_setting_is_label_smoothing_of_about_a_tenth():
    """The defaults, ResNet-18 on CIFAR-100 in that code: epsilon .099, scale 1."""
    config = default_config()
    target = virtual_teacher(
        np.array([3]),
        100,
        correct=config.correct,
        temperature=config.temperature,
        form="released",
    )
    weight = config.alpha * config.multiplier / 100
    scale = 1 - config.alpha + weight
    np.testing.assert_allclose(scale, 1)
    others = np.delete(target.probs[0], 3)
    np.testing.assert_allclose(weight * others.sum() / scale, 0.099, atol=5e-4)
    np.testing.assert_allclose(others, 0.01, atol=5e-4)  # uniform to three decimals


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"form": "release"}, "did you mean 'released'"),
        ({"alpha": 1.1}, r"alpha must lie in \[0, 1\]"),
        ({"temperature": 0.0}, r"temperature must lie in \(0, inf\)"),
        ({"correct": 1.0}, r"correct must lie in \(0, 1\)"),
        ({"multiplier": -1.0}, "multiplier must lie in"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("tf_kd_reg", **options)
