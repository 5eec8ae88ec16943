"""How good are the outputs? Functions of logits and labels, no training state."""

from introspect_jax.evaluate.classification import (
    expected_calibration_error,
    per_example,
    summarize,
)

__all__ = ["expected_calibration_error", "per_example", "summarize"]
