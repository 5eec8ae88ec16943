"""Statistics of paired runs, against scipy, by hand and by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from studies.comparison import (
    holm,
    mean_interval,
    paired_difference,
    power,
    seeds_needed,
    smallest_detectable,
)

VALUES = [0.661, 0.672, 0.655, 0.668, 0.659]


def test_interval_against_scipy():
    found = mean_interval(VALUES)
    low, high = stats.t.interval(0.95, 4, loc=np.mean(VALUES), scale=stats.sem(VALUES))
    assert found["mean"] == pytest.approx(np.mean(VALUES))
    assert found["sd"] == pytest.approx(np.std(VALUES, ddof=1))
    assert (found["low"], found["high"]) == pytest.approx((low, high))
    assert found["n"] == 5


def test_one_run_has_no_interval():
    found = mean_interval([0.5])
    assert found["mean"] == 0.5
    assert math.isnan(found["low"])
    assert math.isnan(paired_difference({0: 0.5}, {0: 0.4})["p"])


def test_paired_over_common_seeds_against_scipy():
    other = [0.650, 0.671, 0.640, 0.669, 0.655]
    first = dict(enumerate(VALUES)) | {7: 0.1}
    second = dict(enumerate(other)) | {9: 0.9}
    found = paired_difference(first, second)
    wanted = stats.ttest_rel(VALUES, other)
    assert found["n"] == 5
    assert found["p"] == pytest.approx(wanted.pvalue)
    interval = wanted.confidence_interval(0.95)
    assert (found["low"], found["high"]) == pytest.approx(tuple(interval))


def test_differences_that_do_not_vary():
    same = paired_difference({0: 0.5, 1: 0.6}, {0: 0.5, 1: 0.6})
    assert same["p"] == 1.0
    assert paired_difference({0: 1.0, 1: 2.0}, {0: 0.0, 1: 1.0})["p"] == 0.0


def test_holm_by_hand():
    # Sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2, 0.5 * 1, never falling.
    found = holm([0.02, 0.5, 0.01, math.nan, 0.03])
    np.testing.assert_allclose(found, [0.06, 0.5, 0.04, math.nan, 0.06])
    assert holm([0.9, 0.8]).max() == 1.0


def test_power_by_simulation():
    generator = np.random.RandomState(0)
    draws = generator.normal(0.5, 0.7, size=(20_000, 6))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert power(0.5, 0.7, 6) == pytest.approx(found.mean(), abs=0.01)
    assert power(0.0, 0.7, 6) == pytest.approx(0.05, abs=1e-6)


def test_what_can_be_detected():
    difference = smallest_detectable(0.7, 6)
    assert power(difference, 0.7, 6) == pytest.approx(0.8, abs=1e-6)
    assert seeds_needed(difference * 1.001, 0.7) == 6
    assert seeds_needed(difference * 0.999, 0.7) == 7
    assert smallest_detectable(0.0, 6) == 0.0
    assert math.isnan(smallest_detectable(0.7, 1))
