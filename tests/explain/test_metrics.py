import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import explain_fn
from introspect_jax.explain import IntegratedGradients, metrics

KEY = jax.random.key(3)
pytestmark = pytest.mark.optimised


@pytest.fixture
def linear():
    """`(logits_fn, images [3, 4, 4, 1], kernel [16, 4])`."""
    kernel = jax.random.normal(KEY, (16, 4))
    images = jax.random.normal(jax.random.key(1), (3, 4, 4, 1))
    return lambda x: x.reshape(len(x), -1) @ kernel, images, kernel


def test_interval_by_its_definition():
    values = np.random.RandomState(1).normal(5, 2, size=400)
    found = metrics.mean_interval(np.append(values, np.nan))
    assert found["count"] == 400
    np.testing.assert_allclose(found["mean"], values.mean())
    half = 1.96 * values.std() / np.sqrt(400)
    np.testing.assert_allclose(found["high"] - found["low"], 2 * half, rtol=0.1)
    assert np.isnan(metrics.mean_interval([np.nan])["mean"])


def test_deletion_and_insertion_by_hand():
    def logits_fn(x):  # certain of class 0 while the first pixel is on
        on = x[:, 0, 0, 0] > 0
        return jnp.stack([jnp.where(on, 50.0, -50.0), jnp.zeros(len(x))], axis=1)

    images = jnp.ones((2, 2, 2, 1))
    maps = jnp.array([[4.0, 3, 2, 1], [1.0, 2, 3, 4]]).reshape(2, 2, 2, 1)
    area = functools.partial(metrics.deletion, logits_fn, images, 0, maps)
    # Off after 1 of 4 pixels, or after all 4; trapezoids of 0.25.
    np.testing.assert_allclose(area(num_steps=4), [0.125, 0.875], atol=1e-6)
    area = functools.partial(metrics.insertion, logits_fn, images, 0, maps)
    np.testing.assert_allclose(
        area(num_steps=4, baseline="zero"), [0.875, 0.125], atol=1e-6
    )


def test_deletion_prefers_the_true_explanation(linear):
    logits_fn, images, _ = linear
    labels = logits_fn(images).argmax(-1)
    right = explain_fn(logits_fn, images, labels, "gradient_x_input")
    area = jax.jit(functools.partial(metrics.deletion, logits_fn, images, labels))
    assert (area(right) < area(-right)).all()


def test_completeness_error(linear):
    logits_fn, images, _ = linear
    maps = explain_fn(logits_fn, images, 2, IntegratedGradients(baseline=0.5))
    error = metrics.completeness_error(logits_fn, images, 2, maps, baseline=0.5)
    np.testing.assert_allclose(error, 0, atol=1e-5)
    error = metrics.completeness_error(logits_fn, images, 2, 2 * maps, baseline=0.5)
    np.testing.assert_allclose(error, maps.sum((1, 2, 3)), rtol=1e-4)


def test_random_logit_similarity_is_the_cosine_of_two_classes(linear):
    logits_fn, images, kernel = linear
    found = metrics.random_logit_similarity(logits_fn, images, 1, class_key=KEY)
    unit = np.asarray(kernel / jnp.linalg.norm(kernel, axis=0, keepdims=True))
    possible = (unit[:, [1]].T @ unit)[0, [0, 2, 3]]
    for value in found:
        assert np.abs(possible - value).min() < 1e-5


def test_randomisation_forgets_layer_by_layer():
    def apply_fn(params, x):
        h = jnp.tanh(x @ params["body"]["kernel"])
        return h @ params["head"]["kernel"]

    def init(seed):
        keys = jax.random.split(jax.random.key(seed), 2)
        return {
            "body": {"kernel": jax.random.normal(keys[0], (30, 20))},
            "head": {"kernel": jax.random.normal(keys[1], (20, 4))},
        }

    inputs = jax.random.normal(KEY, (5, 30))
    run = functools.partial(
        metrics.parameter_randomisation, apply_fn, inputs, 1, params=init(0)
    )
    layers = ["head", "body"]
    same = run(random_params=init(0), layers=layers)
    np.testing.assert_allclose(same, 1, rtol=1e-5)
    found = run(random_params=init(1), layers=layers)
    assert found.shape == (2, 5)
    assert np.abs(found[1]).mean() < 0.3
    with pytest.raises(ValueError, match="no parameter belongs to the layer 'tail'"):
        run(random_params=init(1), layers=["tail"])


def test_max_sensitivity(linear):
    logits_fn, images, _ = linear
    found = metrics.max_sensitivity(logits_fn, images, 0, noise_key=KEY)
    np.testing.assert_allclose(found, 0, atol=1e-6)  # a constant gradient
    found = metrics.max_sensitivity(
        lambda x: logits_fn(x) ** 2, images, 0, noise_key=KEY, radius=0.1
    )
    assert (found > 1e-3).all()
    with pytest.raises(ValueError, match="noise_key= or noise="):
        metrics.max_sensitivity(logits_fn, images, 0)
