"""What the similarity of classes says beyond the logits, for one image.

Everything is over the other classes: those that are not the top class, with which each
of them is compared.
"""

from typing import NamedTuple

import numpy as np

from introspect_jax.explain.agreement import partial_spearman, spearman

# How many of the most similar classes, and of the highest logits, are compared.
COUNT = 10
# A class has a low logit if more than so many classes have a higher one.
LOW = 100


class Comparison(NamedTuple):
    """Similarities to the top class beside the logits of the same image.

    Attributes:
      similar: The most similar of the other classes, the most similar first, `[count]`.
      correlation: Spearman's, of similarities and logits.
      shared: How many of `similar` are among the `count` highest logits.
      low: Those of `similar` that have low logits.
    """

    similar: np.ndarray
    correlation: float
    shared: int
    low: list[int]


def compare(
    similarities: np.ndarray, logits: np.ndarray, count: int = COUNT
) -> Comparison:
    """Compares the similarities of all classes to the top class with the logits.

    Args:
      similarities: `[classes]`.
      logits: `[classes]`; the highest is that of the top class.
      count: Of the classes that are listed, fewer than classes.
    """
    similar = highest(similarities, logits, count)
    places = ranks(logits)
    return Comparison(
        similar,
        correlation(similarities, logits, logits),
        len(np.intersect1d(similar, highest(logits, logits, count))),
        [int(k) for k in similar if places[k] > LOW],
    )


def highest(values: np.ndarray, logits: np.ndarray, count: int = COUNT) -> np.ndarray:
    """The other classes with the highest values, the highest first, `[count]`."""
    order = np.argsort(-values, kind="stable")
    return order[order != logits.argmax()][:count]


def ranks(logits: np.ndarray) -> np.ndarray:
    """Rank of the logit of each class, `[classes]`; the top class has 1."""
    return np.argsort(np.argsort(-logits, kind="stable")) + 1


def correlation(a: np.ndarray, b: np.ndarray, logits: np.ndarray) -> float:
    """Spearman's correlation of two arrays `[classes]` over the other classes."""
    kept = np.arange(len(logits)) != logits.argmax()
    return float(spearman(a[None, kept], b[None, kept])[0])


def beyond(similarities: np.ndarray, logits: np.ndarray, control: np.ndarray) -> float:
    """Partial rank correlation of similarities and logits over the other classes, given
    a control; NaN if that orders them as one of the others does. All `[classes]`."""
    kept = np.arange(len(logits)) != logits.argmax()
    rows = (values[None, kept] for values in (similarities, logits, control))
    return float(partial_spearman(*rows)[0])
