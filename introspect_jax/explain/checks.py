"""Is a function fit to be explained?"""

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

    Explanations of a whole batch are taken in one backward pass, which mixes examples
    where their outputs do. The usual cause is a BatchNorm in train mode.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`.
      inputs: `[batch, ...]`, at least 2 examples, concrete.
      tolerance: largest change of a logit that is put down to rounding, relative to the
        largest logit.

    Raises:
      ValueError: fewer than 2 examples, outputs that are not finite, or that depend on
        each other.
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
    # The first half stays; the others become something else entirely.
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
