"""Temperature scaling and the floor of the ECE, against grids and simulations."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax

from introspect_jax.evaluate import (
    at_temperature,
    calibration,
    ece_floor,
    expected_calibration_error,
    fit_temperature,
    per_example,
    scaled_scores,
    summarize,
)


def nll(logits, labels, temperature):
    log_probs = log_softmax(np.asarray(logits, np.float64) / temperature, axis=1)
    return -log_probs[np.arange(len(labels)), labels].mean()


def noisy(count, classes, seed=0):
    """Logits and labels of an overconfident network that is right half of the time."""
    generator = np.random.RandomState(seed)
    logits = generator.normal(size=(count, classes)).astype(np.float32) * 3
    labels = generator.randint(classes, size=count)
    right = generator.uniform(size=count) < 0.5
    return logits, np.where(right, logits.argmax(1), labels)


@pytest.mark.parametrize("scale", [0.01, 1 / 3, 1, 3, 500])
def test_logits_scaled_from_calibrated_ones_give_their_scale(scale):
    """Every row as often with each label as its probabilities say, out of ten."""
    tenths = np.array([[7, 2, 1], [1, 1, 8], [4, 3, 3]])
    logits = np.repeat(np.log(tenths / 10), 10, axis=0)
    labels = np.concatenate([np.repeat(np.arange(3), row) for row in tenths])
    found = fit_temperature(scale * logits, labels)
    assert found == pytest.approx(scale, rel=1e-8)


@pytest.mark.parametrize(("count", "classes"), [(500, 10), (40, 2), (7, 1000)])
def test_temperature_against_a_grid(count, classes, monkeypatch):
    logits, labels = noisy(count, classes)
    found = fit_temperature(logits, labels)
    grid = np.exp(np.linspace(-3, 5, 4001))
    values = [nll(logits, labels, temperature) for temperature in grid]
    best = int(np.argmin(values))
    assert 0 < best < len(grid) - 1
    assert abs(math.log(found / grid[best])) <= 0.002
    assert nll(logits, labels, found) <= values[best] + 1e-12
    # The examples are taken a part at a time, the last part being a smaller one.
    monkeypatch.setattr(calibration, "_PIECE", 3 * classes)
    assert fit_temperature(logits, labels) == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize(
    ("logits", "labels"),
    [
        ([[2.0, 0.0]], [0]),  # T goes to 0
        ([[2.0, 0.0], [0.0, 5.0], [1.0, 1.0]], [0, 1, 0]),  # and with a tie
        ([[2.0, 0.0]], [1]),  # T grows without bound
        ([[2.0, 0.0], [2.0, 0.0]], [1, 0]),
        ([[1.0, 1.0, 1.0]] * 2, [0, 2]),  # T does not matter
        ([[np.nan, 0.0], [2.0, 0.0]], [1, 0]),
        ([[2.0, 0.0], [np.inf, 0.0]], [1, 0]),
        ([[2.0, -np.inf], [2.0, 1.0]], [0, 1]),
    ],
)
def test_no_temperature_is_best(logits, labels):
    logits, labels = np.array(logits, np.float32), np.array(labels)
    found = fit_temperature(logits, labels)
    assert math.isnan(found)
    scores = scaled_scores({"logits": logits, "label": labels}, found)
    assert len(scores) == 5
    assert set(scores.values()) == {None}


def test_one_wrong_example_can_have_a_temperature():
    """(e^a - 5 e^-5a = 0 at log 5 / 6.)"""
    found = fit_temperature(np.array([[0.0, 1.0, -5.0]]), np.array([0]))
    assert found == pytest.approx(6 / math.log(5), rel=1e-9)


def test_scores_at_a_temperature():
    logits, labels = noisy(300, 4)
    statistics = per_example(jnp.asarray(logits), jnp.asarray(labels))
    examples = {name: np.asarray(column) for name, column in statistics.items()}
    for name, column in at_temperature(logits, labels, 1.0).items():
        np.testing.assert_allclose(column, examples[name], rtol=1e-4, atol=1e-6)
    scores = scaled_scores(examples | {"logits": logits, "label": labels}, 2.5)
    assert scores["temperature"] == 2.5
    assert scores["nll_scaled"] == pytest.approx(nll(logits, labels, 2.5), rel=1e-12)
    confidence = np.exp(log_softmax(logits.astype(np.float64) / 2.5, axis=1)).max(1)
    right = logits.argmax(1) == labels
    wanted = expected_calibration_error(confidence, right)
    assert scores["ece_scaled"] == pytest.approx(wanted, rel=1e-12)
    floors = (scores["ece_scaled_floor"], scores["ece_scaled_floor_95"])
    assert floors == pytest.approx(ece_floor(confidence), rel=1e-12)


def spread(count):
    """Confidences all over the bins."""
    return np.random.RandomState(0).uniform(0.1, 1.0, size=count)


def sure(count):
    """Confidences nearly all of the last bin."""
    return np.random.RandomState(0).beta(100, 1, size=count)


@pytest.mark.parametrize("confidence", [spread(400), sure(400), spread(3)])
def test_floor_against_another_simulation(confidence):
    """Of networks that are calibrated, 95 % have an ECE up to the upper value."""
    generator = np.random.RandomState(7)
    eces = []
    for _ in range(4000):
        right = generator.binomial(1, confidence).astype(bool)
        eces.append(expected_calibration_error(confidence, right))
    floor, high = ece_floor(confidence)
    # Three standard errors of two means, of 1,000 draws and of these.
    assert floor == pytest.approx(np.mean(eces), abs=3 * np.std(eces) * 0.036)
    assert np.mean(np.asarray(eces) <= high + 1e-12) >= 0.95 - 0.025
    assert np.mean(np.asarray(eces) < high - 1e-12) <= 0.95 + 0.025
    assert ece_floor(confidence) == (floor, high)  # no chance in it


def test_floor_by_hand():
    # |k - 1| / 2 with k of Binomial(2, 1/2) is 0 or 1/2, each half of the time.
    assert ece_floor(np.array([0.5, 0.5])) == pytest.approx((0.25, 0.5), abs=0.05)
    # One example: 0.1 nine times of ten, and 0.9 otherwise.
    assert ece_floor(np.array([0.9])) == pytest.approx((0.18, 0.9), abs=0.03)
    assert ece_floor(np.ones(5)) == (0.0, 0.0)
    assert all(map(math.isnan, ece_floor(np.array([0.5, np.nan]))))


def test_no_multiple_of_the_floor_is_its_95_percent():
    """Which is why both are scores: 1.4 for spread confidences is 2 for sure ones."""
    (floor, high), (sure_floor, sure_high) = (
        ece_floor(spread(10_000)),
        ece_floor(sure(10_000)),
    )
    assert 1.3 < high / floor < 1.5
    assert 2.0 < sure_high / sure_floor < 2.6


def test_overconfidence_is_confidence_above_accuracy():
    examples = {"rank": np.array([0, 1, 2, 0]), "nll": np.zeros(4)}
    for confidence, wanted in ((0.9, 0.4), (0.3, -0.2)):
        found = summarize(examples | {"confidence": np.full(4, confidence)})
        assert found["overconfidence"] == pytest.approx(wanted, abs=1e-12)
        assert found["ece"] == pytest.approx(abs(wanted), abs=1e-12)
