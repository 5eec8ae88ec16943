"""Means of per-example scores, with their intervals. Public through `metrics`."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import ArrayLike


def mean_interval(
    values: ArrayLike | Sequence[float],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean of per-example scores with its percentile bootstrap interval (Efron 1979).

    Args:
      values: Scores `[examples]`; NaN values (e.g. correlations with a constant) are
        excluded.
      level: Confidence level of the interval, in (0, 1).
      resamples: Number of bootstrap resamples.
      seed: Random seed of the resampling.

    Returns:
      A dict with `mean`, `low`, `high` and `count`, the number of scores that are not
      NaN. Without any, the other values are NaN.

    Example:
      >>> mean_interval([1.0, 1.0, float("nan")])
      {'mean': 1.0, 'low': 1.0, 'high': 1.0, 'count': 2}
    """
    # Imported here because it takes half a second.
    from scipy import stats

    kept = np.asarray(values, np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return {"mean": np.nan, "low": np.nan, "high": np.nan, "count": 0}
    mean = low = high = float(kept.mean())
    if np.ptp(kept) > 0:  # constant scores need no resampling
        low, high = stats.bootstrap(
            (kept,),
            np.mean,
            n_resamples=resamples,
            batch=max(1, 10_000_000 // len(kept)),
            confidence_level=level,
            method="percentile",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return {"mean": mean, "low": float(low), "high": float(high), "count": len(kept)}
