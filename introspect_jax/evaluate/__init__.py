"""Metrics of classifiers, as functions of logits and labels."""

from introspect_jax.evaluate.calibration import (
    at_temperature,
    ece_floor,
    fit_temperature,
    floor_scores,
    scaled_scores,
)
from introspect_jax.evaluate.classification import (
    expected_calibration_error,
    per_example,
    summarize,
)

__all__ = [
    "at_temperature",
    "ece_floor",
    "expected_calibration_error",
    "fit_temperature",
    "floor_scores",
    "per_example",
    "scaled_scores",
    "summarize",
]
