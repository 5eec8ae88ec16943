"""Images with the predictions of a network and their explanations, for pictures."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import cpu
from introspect_jax.binding import bind
from introspect_jax.data import batches
from introspect_jax.data.preprocess import displayed
from introspect_jax.explain import class_similarity, explain_fn
from introspect_jax.models import make_logits_fn
from introspect_jax.restore import Run
from introspect_jax.trained import Trained

NEIGHBOURS = 3
# Images that expected gradients take for baselines.
BASELINES = 64
# Pixels of a batch, which bound its memory: 64 images of 64x64, 5 of 224x224.
_BATCH_PIXELS = 2**18


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
      pixels: Uint8 `[images, h, w, c]`, as the network sees them.
      labels: Int `[images]`, the classes whose explanations the others are compared
        with.
      kind: What `labels` are: `"label"` (true), `"says"` (the predictions) or
        `"target"` (what was asked for).
      probs: Predicted probabilities `[images, classes]`.
      similarities: Class similarities to the label, `[images, classes]`.
      classes: Int `[images, m]`, the explained classes: the label, then the most
        similar ones.
      maps: Their explanations, `[images, m, h, w, c]`.
      files: Names of the files of the images, `[images]`, if they are from a folder.
    """

    pixels: np.ndarray
    labels: np.ndarray
    kind: str
    probs: np.ndarray
    similarities: np.ndarray
    classes: np.ndarray
    maps: np.ndarray
    files: np.ndarray | None = None

    def part(self, images: slice) -> "Explained":
        """Some of the images."""
        return dataclasses.replace(
            self,
            **{
                field.name: getattr(self, field.name)[images]
                for field in dataclasses.fields(self)
                if isinstance(getattr(self, field.name), np.ndarray)
            },
        )


def choose(run: Run, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Chooses test images, up to half of them misclassified.

    The choice depends on the network and the seed of the run.

    Returns:
      Pixels `[count, h, w, c]` as read and labels `[count]`, misclassified ones first.
    """
    generator = np.random.RandomState(run.config.seed)
    test = run.dataset.test
    # Enough candidates to find mistakes of a network that makes few.
    candidates = np.sort(generator.permutation(len(test))[: max(240, 4 * count)])
    pixels, labels = test.take(candidates)
    wrong = predict(run, pixels).argmax(-1) != labels
    order = generator.permutation(len(labels))
    mistakes = order[wrong[order]][: count // 2]
    rest = order[~wrong[order]][: count - len(mistakes)]
    chosen = np.concatenate([mistakes, rest]).astype(int)
    return pixels[chosen], labels[chosen]


def predict(net: Trained, pixels: np.ndarray) -> np.ndarray:
    """Probabilities `[images, classes]`."""

    @cpu.jit
    def probs(variables, x):
        return jax.nn.softmax(make_logits_fn(net.model, variables)(x))

    return in_batches(net, probs, pixels)


def in_batches(
    net: Trained, function: Callable[..., Any], pixels: np.ndarray, *rows: np.ndarray
) -> Any:
    """Calls `function(variables, inputs, *rows)` for batches of images.

    Args:
      net: The network.
      function: Its results are trees of arrays with a row for each image.
      pixels: `[images, h, w, c]`, as read.
      *rows: Further arrays with a row for each image.

    Returns:
      The results for all images, in NumPy.
    """
    height, width = net.preprocess.size

    def of_batch(pixels: np.ndarray, *rows: np.ndarray) -> Any:
        return function(net.variables, net.preprocess(pixels), *rows)

    size = max(1, _BATCH_PIXELS // (height * width))
    return batches.in_batches(of_batch, size, pixels, *rows)


def explain(
    net: Trained,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    config: ConfigDict,
    *,
    neighbours: int = NEIGHBOURS,
    kind: str = "label",
    files: np.ndarray | None = None,
    others: np.ndarray | None = None,
) -> Explained:
    """Explains images with the explanation and similarity of `config`.

    Args:
      net: The network.
      pixels: `[images, h, w, c]`, as read.
      labels: `[images]`, or None to explain the predicted classes.
      config: Config of `binding.for_pictures`.
      neighbours: Number of other classes to explain, the most similar ones.
      kind: What the labels are, see `Explained`.
      files: See `Explained`.
      others: Pixels of the images that expected gradients take for baselines; by
        default the explained ones.
    """
    probs = predict(net, pixels)
    if labels is None:
        labels, kind = probs.argmax(-1), "says"
    numbers = np.arange(len(pixels))
    images = net.preprocess((pixels if others is None else others)[:BASELINES])

    key = jax.random.key(0)

    @cpu.jit
    def similar(variables, x, y, index):
        bound = bind(config, net.model, variables, images)
        return class_similarity(
            make_logits_fn(net.model, variables),
            x,
            y,
            bound.explanation,
            bound.similarity,
            key=key,
            index=index,
            **bound.options,
        )

    @cpu.jit
    def maps_of(variables, x, classes, index):
        bound = bind(config, net.model, variables, images)
        return explain_fn(
            make_logits_fn(net.model, variables),
            x,
            classes,
            bound.explanation,
            key=key,
            index=index,
            **bound.options,
        )

    similarities = in_batches(net, similar, pixels, labels, numbers)
    count = similarities.shape[1]
    others = np.where(np.arange(count) == labels[:, None], -np.inf, similarities)
    nearest = np.argsort(-others, axis=-1)[:, : min(neighbours, count - 1)]
    classes = np.concatenate([labels[:, None], nearest], axis=1)
    return Explained(
        pixels=displayed(net.preprocess.crop(pixels)),
        labels=np.asarray(labels),
        kind=kind,
        probs=probs,
        similarities=similarities,
        classes=classes,
        maps=in_batches(net, maps_of, pixels, classes, numbers),
        files=files,
    )
