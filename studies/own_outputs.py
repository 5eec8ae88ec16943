"""Compares the class similarities of a trained network with its own outputs.

`studies.agreement` does so with those of a better network. Without one, a network is
compared with its outputs for the same image, for other images that it takes for the
same class, and for the mirrored image.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax import cpu
from introspect_jax.data.batches import in_batches
from introspect_jax.explain.agreement import agreement_beyond, rank_agreement
from introspect_jax.explain.metrics import mean_interval
from introspect_jax.explain.similarity import logit_similarity, weight_row_similarity
from introspect_jax.models import last_layer, make_logits_fn
from introspect_jax.trained import Trained
from studies.forms import MANY_CLASSES, OWN_LOGITS, WEIGHT_ROWS, compiled

Scores = dict[str, dict[str, dict[str, float]]]  # form -> column -> interval
WEIGHT_ROW_PRODUCTS = "control: weight rows, projection"
OWN_PRODUCTS = "control: own (z_k - b_k) (z_y - b_y)"
COMMON = "control: mean logits of images of other classes"
# Images of a class for its mean to be compared, and of a batch.
LEAST_IMAGES, BATCH = 5, 10


def own_outputs(
    net: Trained,
    samples: dict[str, np.ndarray],
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, dict[str, Any]]:
    """Compares similarities and outputs on samples of images.

    The class that is explained is the network's own top class.

    Args:
      net: A network with `maps`, `classify` and `last_layer`.
      samples: Name of each sample -> its images, uint8 `[n, h, w, c]` in the network's
        size.
      report: Called with a line as each form is done.

    Returns:
      For each sample its number of `images`, of `classes` with at least `LEAST_IMAGES`
      of them, and the `scores` of each form.
    """
    functions = compiled(net.model, MANY_CLASSES)
    logits_fn = functools.partial(
        cpu.jit(lambda v, images: make_logits_fn(net.model, v)(images)), net.variables
    )
    kernel, bias = last_layer(net.model, net.variables)
    results = {}
    for name, pixels in samples.items():
        images = net.preprocess(pixels)
        logits = in_batches(logits_fn, BATCH, images)
        mirrored = in_batches(logits_fn, BATCH, images[:, :, ::-1])
        labels = logits.argmax(-1)
        by_form = {}
        for form, function in functions.items():
            by_form[form] = in_batches(
                functools.partial(function, net.variables), BATCH, images, labels
            )
            report(f"{name}: {form}")
        results[name] = {
            "images": len(pixels),
            "classes": int((np.bincount(labels) >= LEAST_IMAGES).sum()),
            "scores": scores(by_form, logits, mirrored, kernel, bias),
        }
    return results


def scores(
    by_form: dict[str, np.ndarray],
    logits: np.ndarray,
    mirrored: np.ndarray,
    kernel: jax.Array,
    bias: jax.Array,
) -> Scores:
    """Rank correlations over the classes that are not the top class y.

    Columns, of which `beyond` names partial correlations:

    | column              | correlation of a form with                                 |
    | ------------------- | ---------------------------------------------------------- |
    | example             | the logits of the same image                               |
    | beyond_rows         | these, given both similarities of weight rows              |
    | beyond_fixed        | these, given also the mean logits of other classes' images |
    | instance            | these, without the means over the images of class y        |
    | class               | the logits, both averaged over the images of class y       |
    | class_beyond        | these, given both similarities of weight rows              |
    | others              | the mean logits of the other images of class y             |
    | others_beyond       | these, given the logits of the same image                  |
    | others_beyond_fixed | these, given also what `beyond_fixed` is given             |
    | mirror_beyond       | the mirrored image's logits, given those of the image      |
    | mirror_beyond_fixed | these, given also what `beyond_fixed` is given             |

    Args:
      by_form: Form -> similarities `[n, classes]` to the top class.
      logits: `[n, classes]`.
      mirrored: Those of the mirrored images, `[n, classes]`.
      kernel: Weights of the last layer, `[features, classes]`.
      bias: Its bias, `[classes]`.
    """
    labels = jnp.asarray(logits.argmax(-1))
    rows = {
        WEIGHT_ROW_PRODUCTS: weight_row_similarity(kernel, labels),
        WEIGHT_ROWS: weight_row_similarity(kernel, labels, "cosine"),
    }
    others, common = means_of_others(logits, np.asarray(labels))
    own, weights = jnp.asarray(logits), list(rows.values())
    fixed = [*weights, jnp.asarray(common)]  # the same for all images of a class
    counts = np.bincount(labels, minlength=logits.shape[1])

    def measure(similarities: jax.Array) -> dict[str, dict[str, float]]:
        def beyond(response: Any, known: list[Any], part: str = "example") -> Any:
            return agreement_beyond(similarities, response, known, labels, part)

        with_own = rank_agreement(similarities, own, labels)
        columns = {
            "example": with_own["example"],
            "beyond_rows": beyond(own, weights),
            "beyond_fixed": beyond(own, fixed),
            "instance": with_own["instance"],
            "class": with_own["class"][counts >= LEAST_IMAGES],
            "class_beyond": beyond(own, weights, "class")[counts >= LEAST_IMAGES],
            "others": rank_agreement(similarities, others, labels)["example"],
            "others_beyond": beyond(others, [own]),
            "others_beyond_fixed": beyond(others, [own, *fixed]),
            "mirror_beyond": beyond(mirrored, [own]),
            "mirror_beyond_fixed": beyond(mirrored, [own, *fixed]),
        }
        return {name: mean_interval(values) for name, values in columns.items()}

    similarities = {
        OWN_LOGITS: own,
        **rows,
        OWN_PRODUCTS: logit_similarity(own, labels, bias=bias),
        COMMON: jnp.asarray(common),
        **{form: jnp.asarray(values) for form, values in by_form.items()},
    }
    return {name: measure(values) for name, values in similarities.items()}


def means_of_others(
    values: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean rows over the other examples of the same class, and over other classes.

    Args:
      values: `[n, classes]`.
      labels: Class of each example, ints `[n]`.

    Returns:
      Two arrays `[n, classes]`, NaN for an example without such others. The second is
      the same for all examples of a class.
    """
    members = np.eye(labels.max() + 1)[labels]
    sums, counts = members.T @ values, members.sum(0)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        same = (sums[labels] - values) / (counts[labels] - 1)
        rest = (sums.sum(0) - sums) / (counts.sum() - counts)
    alone, no_rest = counts[labels] == 1, counts == counts.sum()
    return (
        np.where(alone, np.nan, same),
        np.where(no_rest, np.nan, rest)[labels],
    )
