"""Where the methods look: paths, baselines, noise; and options that cannot be."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, ConvNet, explain

from introspect_jax import explain_fn
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.paths import RULES, quadrature
from introspect_jax.explain.targets import contrast, log_probability


@pytest.fixture
def net():
    return ConvNet()


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("rule", RULES)
    def test_completeness(self, net, rule):
        maps = explain(
            net, LABELS, "integrated_gradients", num_steps=400, rule=rule, baseline=0.3
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
            method="expected_gradients",
            baselines=baselines,
            key=KEY,
        )
        np.testing.assert_allclose(
            maps, (inputs - baselines) * kernel[:, 1], rtol=1e-10
        )

    def test_noise_is_relative_to_the_range_or_absolute(self, net):
        """Of a quadratic, the mean noisy gradient differs by twice the mean noise."""
        inputs = net.inputs.at[0].multiply(10.0)

        def logits_fn(x):
            return (x**2).reshape(len(x), -1).sum(-1, keepdims=True) * jnp.ones(2)

        def spread(**options):
            maps = explain_fn(
                logits_fn,
                inputs,
                0,
                method="smoothgrad",
                num_samples=1,
                key=KEY,
                **options,
            )
            return np.asarray((maps - 2 * inputs) / 2).std((1, 2, 3))

        span = np.asarray(inputs.max((1, 2, 3)) - inputs.min((1, 2, 3)))
        np.testing.assert_allclose(spread(noise_level=0.1), 0.1 * span, rtol=0.3)
        np.testing.assert_allclose(spread(sigma=0.5), 0.5, rtol=0.3)

    @pytest.mark.parametrize("target", [contrast(LABELS, 1), log_probability(LABELS)])
    def test_scores_are_complete_along_the_path(self, net, target):
        """A score of the logits is explained at every step, not at the end alone."""
        maps = explain(net, target, "integrated_gradients", num_steps=60, baseline=0.0)
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
    index = jnp.arange(3)
    make = functools.partial(make_baseline, inputs=images, key=KEY, index=index)
    assert not make("zero").any()
    np.testing.assert_allclose(
        make("mean")[:, 0, 0], images.mean((1, 2)), rtol=1e-5, atol=1e-6
    )
    blurred = make("blur")
    assert blurred.shape == images.shape
    assert float(blurred.std()) < 0.4 * float(images.std())
    flat = make_baseline("blur", jnp.ones_like(images), None, index)
    np.testing.assert_allclose(flat, 1, rtol=1e-6)
    noise = make("uniform")
    assert (noise >= images.min((1, 2, 3), keepdims=True)).all()
    assert (noise <= images.max((1, 2, 3), keepdims=True)).all()
    np.testing.assert_allclose(make(0.5), 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "integrated_gradient"}, "did you mean 'integrated_gradients'"),
        ({"method": "smoothgrad"}, "give it key="),
        ({"method": "smoothgrad", "key": KEY, "num_samples": 0}, "at least 1"),
        ({"method": "smoothgrad", "noise": jnp.zeros((4, 3, 2))}, "noise must be"),
        ({"method": "integrated_gradients", "rule": "simpson"}, "quadrature rule"),
        ({"method": "integrated_gradients", "baseline": "black"}, "unknown baseline"),
        (
            {"method": "integrated_gradients", "baseline": jnp.zeros((3, 3))},
            "does not broadcast",
        ),
        ({"method": "gradient_x_input", "baseline": "uniform"}, "needs key="),
        ({"method": "expected_gradients", "key": KEY}, "needs baselines="),
        (
            {
                "method": "expected_gradients",
                "key": KEY,
                "baselines": jnp.zeros((2, 3)),
            },
            "baselines must be",
        ),
        ({"method": "grad_cam"}, "needs head="),
        ({"nonlinearity": "abs"}, "absolute"),
        ({"pool": 4}, "does not divide"),
        ({"mask": jnp.zeros((2, 4, 4, 6, 2))}, "broadcast"),
        ({"chunk_size": 0}, "at least 1"),
        ({"target": "top:9"}, "m in 1..5"),
        ({"target": contrast(0, 9)}, "0..4"),
    ],
    ids=str,
)
def test_bad_options(net, options, says):
    target = options.pop("target", 0)
    with pytest.raises(ValueError, match=says):
        explain_fn(net, net.inputs, target, **options)
