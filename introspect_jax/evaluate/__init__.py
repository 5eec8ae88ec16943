"""Metrics of classifiers, as functions of logits and labels."""

from introspect_jax.evaluate.classification import (
    expected_calibration_error,
    per_example,
    summarize,
)

__all__ = ["expected_calibration_error", "per_example", "summarize"]
