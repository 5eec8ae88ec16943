"""Examples without a label: they are in no mean of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import CLASSES, batch, ce, images, log_probs, loss, make

from introspect_jax import methods
from introspect_jax.methods.base import averaged

LOSSES = jnp.array([1.0, 2.0, 4.0])
METRICS = {"entropy": jnp.array([0.5, 0.1, 0.7]), "right": jnp.array([1, 0, 0]), "w": 2}
LOGITS = jnp.array([[3.0, 0.0], [3.0, 0.0], [3.0, 0.0]])


def test_means_over_all_examples():
    labels = jax.nn.one_hot(jnp.array([0, 1, 1]), 2)
    value, means = averaged(LOGITS, labels, LOSSES, METRICS)
    np.testing.assert_allclose(value, jnp.mean(LOSSES), rtol=1e-6)
    wanted = {"entropy": 1.3 / 3, "right": 1 / 3, "w": 2, "accuracy": 1 / 3}
    assert means.keys() == wanted.keys()
    for name, mean in wanted.items():
        np.testing.assert_allclose(means[name], mean, rtol=1e-6)
        assert means[name].shape == ()


def test_means_over_labelled_examples():
    labels = jax.nn.one_hot(jnp.array([0, -1, 1]), 2)
    losses = LOSSES.at[1].set(jnp.nan)
    value, means = averaged(LOGITS, labels, losses, METRICS)
    np.testing.assert_allclose(value, 2.5)
    wanted = {"entropy": 0.6, "right": 0.5, "w": 2, "accuracy": 0.5}
    for name, mean in wanted.items():
        np.testing.assert_allclose(means[name], mean, rtol=1e-6)


def test_no_label_at_all():
    value, means = averaged(LOGITS, jnp.zeros((3, 2)), LOSSES, METRICS)
    assert value == 0
    assert {name: float(mean) for name, mean in means.items()} == {
        "entropy": 0,
        "right": 0,
        "w": 2,
        "accuracy": 0,
    }


def test_standard_training_on_half_of_the_labels():
    method = make("standard")
    given = batch(method)
    given["label"] = given["label"].at[4:].set(0)
    value, (_, _, metrics) = loss(method, given)
    logs = log_probs(method, images())[:4]
    labels = given["label"][:4]
    np.testing.assert_allclose(value, ce(labels, logs).mean(), rtol=1e-5)
    hits = logs.argmax(-1) == labels.argmax(-1)
    np.testing.assert_allclose(metrics["accuracy"], hits.mean())


@pytest.mark.parametrize("every", [1, 2])
def test_metrics_of_the_explained_examples(every):
    """Every second example is explained, and every fourth has no label."""
    method = make("introspective", weight=0.5, ramp_up=0.0, explain_every=every)
    given = batch(method)
    given["label"] = given["label"].at[::4].set(0)
    _, (_, _, metrics) = loss(method, given, step=1)
    assert metrics["degenerate"] == 0
    assert metrics["target_true_mass"] == 0
    assert 0 < metrics["target_entropy"] <= np.log(CLASSES - 1) + 1e-6


@pytest.mark.parametrize("name", sorted(methods.modules()))
def test_a_batch_without_labels_has_no_loss(name):
    method = make(name)
    given = batch(method)
    given["label"] = jnp.zeros_like(given["label"])
    value, (_, _, metrics) = loss(method, given, step=10)
    assert value == 0
    assert metrics["accuracy"] == 0
    assert all(np.isfinite(metric) for metric in metrics.values())
