"""Check that a function can be explained."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def check_independent(
    logits_fn: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    *,
    tolerance: float = 1e-3,
) -> None:
    """Checks that no output depends on another example; call it once, before training.

    A single backward pass explains a whole batch, which is only correct if the outputs
    of each example depend on that example alone. The usual cause of a failure is
    BatchNorm in training mode.

    Args:
      logits_fn: Function from inputs to logits `[batch, classes]`.
      inputs: Concrete array `[batch, ...]` of at least 2 examples.
      tolerance: Largest change of a logit that counts as rounding, relative to the
        largest logit.

    Raises:
      ValueError: Fewer than 2 examples, outputs that are not finite, or outputs that
        depend on other examples.
    """
    inputs = jnp.asarray(inputs)
    if len(inputs) < 2:
        raise ValueError(
            f"check_independent needs at least 2 examples, got {len(inputs)}"
        )
    logits = np.asarray(logits_fn(inputs), np.float64)
    if not np.isfinite(logits).all():
        raise ValueError(
            "logits_fn gives values that are not finite; are the inputs scaled, and by "
            "numbers that are not too large or small?"
        )
    # Keep the first half of the batch and replace the second.
    half = len(inputs) // 2
    others = inputs.at[half:].set(3.0 * inputs[half:][::-1] + 1.0)
    again = np.asarray(logits_fn(others), np.float64)
    change = np.abs(again - logits)[:half].max()
    scale = max(np.abs(logits[:half]).max(), 1e-6)
    if not change <= tolerance * scale:
        raise ValueError(
            "the output of logits_fn for one example depends on the others of its "
            f"batch: logits moved by {change:.3g} (of {scale:.3g}) when only others "
            "changed. Explain with train=False, so that BatchNorm uses its running "
            "statistics"
        )
