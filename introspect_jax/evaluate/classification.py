"""Top-k accuracy, negative log-likelihood and calibration error."""

import jax
import jax.numpy as jnp
import numpy as np

ECE_BINS = 15


def per_example(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Statistics of each example, for `summarize`.

    Args:
      logits: `[batch, classes]`.
      labels: Ints `[batch]`.

    Returns:
      Arrays `[batch]`: `rank`, the number of other classes whose logits are not below
      that of the label (ties and NaN count against the network); `nll`, in nats; and
      `confidence`, the largest probability.
    """
    logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    log_probs = jax.nn.log_softmax(logits)
    own_logit = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    own = jnp.take_along_axis(log_probs, labels[:, None], axis=-1)[:, 0]
    return {
        "rank": jnp.sum(~(logits < own_logit), axis=-1) - 1,
        "nll": -own,
        "confidence": jnp.exp(jnp.max(log_probs, axis=-1)),
    }


def bin_of(confidence: np.ndarray, bins: int = ECE_BINS) -> np.ndarray:
    """The bin of each confidence, ints `[examples]`: equal widths, closed on the right.

    Args:
      confidence: `[examples]`, in (0, 1].
      bins: Number of bins.
    """
    return np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)


def expected_calibration_error(
    confidence: np.ndarray, correct: np.ndarray, bins: int = ECE_BINS
) -> float:
    """Mean gap between confidence and accuracy (Guo et al. 2017), a fraction.

    Args:
      confidence: Probabilities of the predicted classes, `[examples]`, in (0, 1].
      correct: Bool `[examples]`.
      bins: Number of bins.
    """
    confidence = np.asarray(confidence, np.float64)
    gaps = np.bincount(
        bin_of(confidence, bins), np.asarray(correct, np.float64) - confidence
    )
    return float(np.abs(gaps).sum() / len(confidence))


def summarize(examples: dict[str, np.ndarray]) -> dict[str, float]:
    """`top1`, `top5`, `nll`, `ece` and `overconfidence` of a whole split.

    Args:
      examples: Statistics of `per_example`, each `[examples]`.

    Returns:
      Fractions, except for `nll`, in nats. `ece` has 15 bins; `overconfidence` is the
      mean confidence minus the accuracy. Sums are taken in float64.
    """
    rank = np.asarray(examples["rank"])
    confidence = np.asarray(examples["confidence"], np.float64)
    return {
        "top1": float(np.mean(rank < 1)),
        "top5": float(np.mean(rank < 5)),
        "nll": float(np.mean(np.asarray(examples["nll"], np.float64))),
        "ece": expected_calibration_error(confidence, rank < 1),
        "overconfidence": float(np.mean(confidence) - np.mean(rank < 1)),
    }
