"""Paths, baselines and noise; and options that are refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, ConvNet

from introspect_jax import explain_fn
from introspect_jax.explain import (
    ChannelSum,
    ExpectedGradients,
    GradCAM,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    Mask,
    Pool,
    SmoothGrad,
)
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.path_integrals import RULES, quadrature
from introspect_jax.explain.problem import make_problem
from introspect_jax.explain.targets import contrast, log_probability


@pytest.fixture
def net():
    return ConvNet()


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("rule", RULES)
    def test_completeness(self, net, rule):
        maps = explain_fn(
            net, net.inputs, LABELS, IntegratedGradients(400, baseline=0.3, rule=rule)
        )
        logits = net(net.inputs) - net(jnp.full_like(net.inputs, 0.3))
        wanted = logits[jnp.arange(4), LABELS]
        error = np.abs(maps.sum((1, 2, 3)) - wanted).max() / np.abs(wanted).max()
        limits = {"gauss_legendre": 1e-10, "middle": 1e-4, "trapezoid": 1e-4}
        assert error < limits.get(rule, 2e-2)
        if rule in ("left", "right", "captum_trapezoid"):
            assert error > 1e-4  # biased, as said

    def test_expected_gradients_of_a_linear_function(self):
        kernel = jax.random.normal(KEY, (3, 4))
        inputs = jax.random.normal(jax.random.key(1), (2, 3))
        baselines = jnp.array([[1.0, -2.0, 0.5]])
        maps = explain_fn(
            lambda x: x @ kernel,
            inputs,
            1,
            ExpectedGradients(baselines),
            key=KEY,
        )
        np.testing.assert_allclose(
            maps, (inputs - baselines) * kernel[:, 1][None], rtol=1e-10
        )

    def test_noise_is_relative_to_the_range_or_absolute(self, net):
        """Of a quadratic, the mean noisy gradient differs by twice the mean noise."""
        inputs = net.inputs.at[0].multiply(10.0)

        def logits_fn(x):
            return (x**2).reshape(len(x), -1).sum(-1, keepdims=True) * jnp.ones((1, 2))

        def spread(**noise):
            maps = explain_fn(
                logits_fn,
                inputs,
                0,
                SmoothGrad(num_samples=1, **noise),
                key=KEY,
            )
            return np.asarray((maps - 2 * inputs) / 2).std((1, 2, 3))

        span = np.asarray(inputs.max((1, 2, 3)) - inputs.min((1, 2, 3)))
        np.testing.assert_allclose(spread(noise_level=0.1), 0.1 * span, rtol=0.3)
        np.testing.assert_allclose(spread(sigma=0.5), 0.5, rtol=0.3)

    @pytest.mark.parametrize("target", [contrast(LABELS, 1), log_probability(LABELS)])
    def test_scores_are_complete_along_the_path(self, net, target):
        """A score of the logits is explained at every step, not at the end alone."""
        maps = explain_fn(
            net, net.inputs, target, IntegratedGradients(60, baseline=0.0)
        )
        wanted = target(net(net.inputs)) - target(net(jnp.zeros_like(net.inputs)))
        np.testing.assert_allclose(maps.sum((1, 2, 3)), wanted, rtol=1e-7)


def test_quadrature_rules():
    for rule in RULES:
        nodes, weights = quadrature(rule, 7)
        assert len(nodes) == len(weights) == 7
        total = 6 / 7 if rule == "captum_trapezoid" else 1
        np.testing.assert_allclose(weights.sum(), total)
        assert nodes.min() >= 0
        assert nodes.max() <= 1
    nodes, weights = quadrature("gauss_legendre", 5)
    np.testing.assert_allclose((weights * nodes**9).sum(), 1 / 10)  # exact to 2n - 1


def test_baselines():
    images = jax.random.normal(KEY, (3, 8, 6, 2))

    def make(baseline, images=images):
        problem = make_problem(lambda x: x.sum((1, 2)), images, key=KEY)
        return make_baseline(baseline, problem)

    assert not make("zero").any()
    np.testing.assert_allclose(
        make("mean")[:, 0, 0], images.mean((1, 2)), rtol=1e-5, atol=1e-6
    )
    blurred = make("blur")
    assert blurred.shape == images.shape
    assert float(blurred.std()) < 0.4 * float(images.std())
    np.testing.assert_allclose(make("blur", jnp.ones_like(images)), 1, rtol=1e-6)
    noise = make("uniform")
    assert (noise >= images.min((1, 2, 3), keepdims=True)).all()
    assert (noise <= images.max((1, 2, 3), keepdims=True)).all()
    np.testing.assert_allclose(make(0.5), 0.5)


@pytest.mark.parametrize(
    ("explanation", "options", "says"),
    [
        (
            lambda: "integrated_gradient",
            {},
            "did you mean 'integrated_gradients'",
        ),
        (lambda: IntegratedGradients, {}, r"did you mean IntegratedGradients\(\)"),
        (lambda: "smoothgrad", {}, "give it key="),
        (lambda: SmoothGrad(0), {}, "SmoothGrad: num_samples must be at least 1"),
        (lambda: SmoothGrad(noise=jnp.zeros((4, 3, 2))), {}, "noise must be"),
        (lambda: IntegratedGradients(rule="simpson"), {}, "quadrature rule"),
        (lambda: IntegratedGradients(num_steps=2.5), {}, "at least 1, got 2.5"),
        (lambda: IntegratedGradients(baseline="black"), {}, "unknown baseline"),
        (
            lambda: IntegratedGradients(baseline=jnp.zeros((3, 3))),
            {},
            "does not broadcast",
        ),
        (lambda: GradientXInput("uniform"), {}, "give it key="),
        (
            lambda: "expected_gradients",
            {"key": KEY},
            r"give the object introspect_jax.explain.ExpectedGradients\(baselines\)",
        ),
        (
            lambda: ExpectedGradients(jnp.zeros((2, 3))),
            {"key": KEY},
            "baselines must be",
        ),
        (lambda: "grad_cam", {}, r"GradCAM\(features_fn, head_fn\)"),
        (
            lambda: GradCAM(lambda x: x.mean((1, 2)), lambda h: h),
            {},
            "must return feature maps",
        ),
        (
            lambda: GradCAM(lambda x: x, lambda h: h.mean((1, 2))),
            {},
            r"head_fn must return the logits of logits_fn, \[4, 5\], got \[4, 2\]",
        ),
        (lambda: Pool(Gradient(), 4), {}, "does not divide"),
        (lambda: Mask(Gradient(), jnp.zeros((2, 4, 4, 6, 2))), {}, "broadcast"),
        (lambda: ChannelSum(Gradient()), {"channel_axis": None}, "needs channels"),
        (lambda: "gradient", {"chunk_size": 0}, "chunk_size must be at least 1"),
        (
            lambda: "gradient",
            {"class_chunk_size": 0, "target": "all"},
            "class_chunk_size must be at least 1",
        ),
        (lambda: "gradient", {"channel_axis": 4}, "channel_axis is 4"),
        (lambda: "gradient", {"channel_axis": 0}, "the axis of the batch"),
        (lambda: "gradient", {"index": jnp.arange(3)}, r"index must be ints \[4\]"),
        (lambda: "gradient", {"target": "top:9"}, "m in 1..5"),
        (lambda: "gradient", {"target": contrast(0, 9)}, "0..4"),
    ],
)
@pytest.mark.untyped
def test_bad_options(net, explanation, options, says):
    options = {"target": 0} | options
    with pytest.raises(ValueError, match=says):
        explain_fn(net, net.inputs, options.pop("target"), explanation(), **options)


@pytest.mark.untyped
def test_a_misspelt_field_names_the_class():
    with pytest.raises(TypeError, match=r"IntegratedGradients.*'num_step'"):
        IntegratedGradients(num_step=20)
