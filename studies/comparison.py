"""Is one method better than another? Statistics of runs paired by their seed.

Student's t throughout: seeds are few, and an accuracy over thousands of test images is
close to normal.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

Values = Sequence[float] | np.ndarray


def mean_interval(values: Values, level: float = 0.95) -> dict[str, float]:
    """Mean with its t interval.

    Args:
      values: `[runs]`.
      level: of the interval, in (0, 1).

    Returns:
      `mean`, `sd` (of a single run, n - 1 degrees of freedom), `low`, `high` and `n`.
      With one run `sd`, `low` and `high` are NaN.
    """
    from scipy import stats

    values = np.asarray(values, np.float64)
    n = len(values)
    mean = float(values.mean()) if n else math.nan
    if n < 2:
        nan = math.nan
        return {"mean": mean, "sd": nan, "low": nan, "high": nan, "n": n}
    sd = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + level) / 2, n - 1)) * sd / math.sqrt(n)
    return {"mean": mean, "sd": sd, "low": mean - half, "high": mean + half, "n": n}


def paired_difference(
    first: Mapping[int, float], second: Mapping[int, float], level: float = 0.95
) -> dict[str, float]:
    """`first - second` over the seeds that both have, with the paired t test.

    Args:
      first: seed -> value.
      second: seed -> value.
      level: of the interval.

    Returns:
      The entries of `mean_interval` for the differences, and the two-sided `p`.
    """
    from scipy import stats

    seeds = sorted(first.keys() & second.keys())
    interval = mean_interval([first[s] - second[s] for s in seeds], level)
    if interval["n"] < 2:
        return interval | {"p": math.nan}
    if interval["sd"] == 0:
        return interval | {"p": 1.0 if interval["mean"] == 0 else 0.0}
    t = interval["mean"] / (interval["sd"] / math.sqrt(interval["n"]))
    return interval | {"p": float(2 * stats.t.sf(abs(t), interval["n"] - 1))}


def holm(p_values: Values) -> np.ndarray:
    """p-values corrected for their number (Holm 1979), in the order given.

    Args:
      p_values: `[tests]`; NaN stands for a test that was not done and is not counted.
    """
    p = np.asarray(p_values, np.float64)
    corrected = np.full(len(p), math.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    factors = len(order) - np.arange(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * factors))
    return corrected


def power(difference: float, sd: float, n: int, level: float = 0.95) -> float:
    """Power of the paired t test: probability of finding a true difference.

    Args:
      difference: true mean of the differences.
      sd: of a single difference, above 0.
      n: seeds, at least 2.
      level: 1 - the level of the two-sided test.
    """
    from scipy import stats

    limit = stats.t.ppf((1 + level) / 2, n - 1)
    shift = difference / sd * math.sqrt(n)
    above = stats.nct.sf(limit, n - 1, shift)
    below = stats.nct.cdf(-limit, n - 1, shift)
    return float(np.nan_to_num(above) + np.nan_to_num(below))


def smallest_detectable(
    sd: float, n: int, *, wanted: float = 0.8, level: float = 0.95
) -> float:
    """The true difference that a paired t test of n seeds finds with this power.

    Args:
      sd: of a single difference.
      n: seeds.
      wanted: power, in (0, 1).
      level: 1 - the level of the two-sided test.

    Returns:
      The difference in the unit of `sd`; NaN for fewer than two seeds.
    """
    from scipy import optimize

    if n < 2 or math.isnan(sd):
        return math.nan
    if sd == 0:
        return 0.0
    low, high = 0.0, sd
    while power(high, sd, n, level) < wanted:
        high *= 2
    return float(
        optimize.brentq(lambda d: power(d, sd, n, level) - wanted, low, high, xtol=1e-9)
    )


def seeds_needed(
    difference: float, sd: float, *, wanted: float = 0.8, level: float = 0.95
) -> int:
    """The number of seeds that find a true difference with this power; at least 2.

    Args:
      difference: above 0, in the unit of `sd`.
      sd: of a single difference.
      wanted: power, in (0, 1).
      level: 1 - the level of the two-sided test.
    """
    n = 2
    while sd > 0 and power(difference, sd, n, level) < wanted:
        n += 1 if n < 100 else n // 20
    return n
