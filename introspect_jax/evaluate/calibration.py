"""Calibration that temperature scaling cannot repair, and ECE that chance explains.

All in NumPy and float64, a part of the examples at a time.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from introspect_jax.evaluate.classification import bin_of, expected_calibration_error

DRAWS = 1000  # the mean of so many ECEs is known to 1 %
_PIECE = 2**20  # numbers that are worked on at once
_FURTHEST = 100  # |log T|, beyond which float32 logits have no minimum


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T at which the mean NLL of `softmax(logits / T)` is least.

    Guo et al. 2017 (arXiv 1706.04599), section 4.2. The NLL is convex in 1/T, so its
    derivative has one zero, which Brent's method finds in log T; a scale of the logits
    only scales T.

    Args:
      logits: `[examples, classes]`.
      labels: Ints `[examples]`.

    Returns:
      T, above 0; NaN where no T is best: every label has the largest logit (the NLL
      falls as T goes to 0), the labels' logits are on average not above the mean logit
      (it falls as T grows without bound), or a logit is not finite.

    Example:
      >>> import numpy as np
      >>> calibrated = np.log([[0.75, 0.25]] * 4)  # three of four are right
      >>> round(fit_temperature(3 * calibrated, np.array([0, 0, 0, 1])), 6)
      3.0
      >>> fit_temperature(calibrated, np.array([0, 0, 0, 0]))
      nan
    """
    if not np.isfinite(logits).all():
        return math.nan
    total = sum(above.sum() for above in _above_label(logits, labels))
    largest = max((above.max() for above in _above_label(logits, labels)), default=0)
    if total >= 0 or largest <= 0:
        return math.nan

    def slope(log_t: float) -> float:
        """Of the NLL in 1/T: the mean logit under the softmax, above the label's."""
        sums = 0.0
        for above in _above_label(logits, labels):
            scaled = above / math.exp(log_t)
            weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
            sums += ((weights * above).sum(axis=1) / weights.sum(axis=1)).sum()
        return float(sums)

    # It is positive at a T that is too low.
    towards = math.copysign(1.0, slope(0.0))
    near, far = 0.0, towards
    while slope(far) * towards > 0:
        if abs(far) > _FURTHEST:
            return math.nan
        near, far = far, far + towards
    # Imported here because it is slow.
    from scipy import optimize

    return math.exp(optimize.brentq(slope, near, far, xtol=1e-10))


def at_temperature(
    logits: np.ndarray, labels: np.ndarray, temperature: float
) -> dict[str, np.ndarray]:
    """`nll` (nats) and `confidence` of `softmax(logits / temperature)`, `[examples]`.

    Args:
      logits: `[examples, classes]`.
      labels: Ints `[examples]`.
      temperature: Above 0.
    """
    columns = []
    for above in _above_label(logits, labels):
        scaled = above / temperature
        most = scaled.max(axis=1)
        sums = np.exp(scaled - most[:, None]).sum(axis=1)
        columns.append((most + np.log(sums), 1 / sums))
    nll, confidence = np.concatenate(columns, axis=1)
    return {"nll": nll, "confidence": confidence}


def _above_label(logits: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """Yields `z - z_y` of some examples after the other, float64 `[some, classes]`."""
    rows = max(1, _PIECE // logits.shape[1])
    for start in range(0, len(logits), rows):
        part = np.asarray(logits[start : start + rows], np.float64)
        of_label = labels[start : start + rows, None]
        with np.errstate(invalid="ignore"):  # inf - inf
            yield part - np.take_along_axis(part, of_label, axis=1)


def ece_floor(
    confidence: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> tuple[float, float]:
    """The ECE of a perfectly calibrated network of these confidences.

    It is above 0 because the accuracy of the finitely many examples of a bin is not
    its expectation. Each draw makes every prediction right with the probability of its
    confidence (consistency resampling: Bröcker and Smith 2007, "Increasing the
    reliability of reliability diagrams") and takes the ECE of 15 bins.

    Args:
      confidence: Probabilities of the predicted classes, `[examples]`, in (0, 1].
      draws: Number of simulations.
      seed: Of their random numbers. With the same seed, networks are compared on the
        same numbers.

    Returns:
      The mean over the draws, and the value below which 95 % of them are: an ECE up to
      there is what chance explains. NaN if a confidence is not finite.

    Example:
      >>> import numpy as np
      >>> ece_floor(np.ones(100))
      (0.0, 0.0)
      >>> floor, high = ece_floor(np.full(100, 0.5))  # a mean of 0.04: |N(0, 0.05)|
      >>> round(floor, 2), round(high, 2)
      (0.04, 0.1)
    """
    confidence = np.asarray(confidence, np.float64)
    if not np.isfinite(confidence).all():
        return math.nan, math.nan
    bins = bin_of(confidence)
    order = np.argsort(bins, kind="stable")
    confidence, bins = confidence[order], bins[order]
    starts = np.flatnonzero(np.diff(bins, prepend=-1))
    expected = np.add.reduceat(confidence, starts)
    generator = np.random.Generator(np.random.PCG64(seed))
    limits = confidence.astype(np.float32)
    gaps = []
    rows = max(1, _PIECE // len(confidence))
    for start in range(0, draws, rows):
        shape = (min(rows, draws - start), len(confidence))
        right = generator.random(shape, np.float32) < limits
        counts = np.add.reduceat(right, starts, axis=1, dtype=np.int64)
        gaps.append(np.abs(counts - expected).sum(axis=1))
    eces = np.concatenate(gaps) / len(confidence)
    return float(eces.mean()), float(np.quantile(eces, 0.95))


def floor_scores(confidence: np.ndarray, name: str = "ece") -> dict[str, float]:
    """The values of `ece_floor` as scores, `{name}_floor` and `{name}_floor_95`."""
    mean, high = ece_floor(confidence)
    return {f"{name}_floor": mean, f"{name}_floor_95": high}


def scaled_scores(examples: dict[str, np.ndarray], temperature: float) -> dict:
    """Scores after temperature scaling.

    Args:
      examples: Statistics of `per_example`, with `logits` and `label`.
      temperature: Of `fit_temperature` on another split. On the examples that it was
        fitted on, the scores are better than those of examples not seen before.

    Returns:
      `temperature`, `nll_scaled`, `ece_scaled`, and its floor as `ece_scaled_floor` and
      `ece_scaled_floor_95`; all None if the temperature is NaN.
    """
    if math.isnan(temperature):
        names = ("nll_scaled", "ece_scaled", "ece_scaled_floor", "ece_scaled_floor_95")
        return dict.fromkeys(("temperature", *names))
    scaled = at_temperature(examples["logits"], examples["label"], temperature)
    confidence, right = scaled["confidence"], examples["rank"] < 1
    scores: dict[str, Any] = {
        "temperature": temperature,
        "nll_scaled": float(scaled["nll"].mean()),
        "ece_scaled": expected_calibration_error(confidence, right),
    }
    return scores | floor_scores(confidence, "ece_scaled")
