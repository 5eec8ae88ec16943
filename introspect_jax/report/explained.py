"""Images with the predictions of a network and their explanations, for pictures."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import cpu
from introspect_jax.binding import bind
from introspect_jax.data.preprocess import displayed
from introspect_jax.explain import class_similarity, explain_fn
from introspect_jax.restore import Run

NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
      pixels: Uint8 `[images, h, w, c]`, as the network sees them.
      labels: Int `[images]`, the classes whose explanations the others are compared
        with.
      known: Whether `labels` are true labels; otherwise they are the predictions.
      probs: Predicted probabilities `[images, classes]`.
      similarities: Class similarities to the label, `[images, classes]`.
      classes: Int `[images, m]`, the explained classes: the label, then the most
        similar ones.
      maps: Their explanations, `[images, m, h, w, c]`.
    """

    pixels: np.ndarray
    labels: np.ndarray
    known: bool
    probs: np.ndarray
    similarities: np.ndarray
    classes: np.ndarray
    maps: np.ndarray

    def part(self, images: slice) -> "Explained":
        """Some of the images."""
        return dataclasses.replace(
            self,
            **{
                field.name: getattr(self, field.name)[images]
                for field in dataclasses.fields(self)
                if field.name != "known"
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


def predict(run: Run, pixels: np.ndarray) -> np.ndarray:
    """Probabilities `[images, classes]`."""
    probs_fn = cpu.jit(lambda x: jax.nn.softmax(run.logits_fn(x)))
    return np.asarray(probs_fn(run.preprocess(pixels)))


def explain(
    run: Run,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    config: ConfigDict,
    *,
    neighbours: int = NEIGHBOURS,
) -> Explained:
    """Explains images with the explanation and similarity of `config`.

    Args:
      run: The restored run.
      pixels: `[images, h, w, c]`, as read.
      labels: `[images]`, or None to explain the predicted classes.
      config: Config of `binding.for_pictures`.
      neighbours: Number of other classes to explain, the most similar ones.
    """
    inputs, probs = run.preprocess(pixels), predict(run, pixels)
    known = labels is not None
    if labels is None:
        labels = probs.argmax(-1)

    key = jax.random.key(0)

    def similar(x, y):
        bound = bind(config, run.model, run.variables, x)
        return class_similarity(
            run.logits_fn,
            x,
            y,
            bound.explanation,
            bound.similarity,
            key=key,
            **bound.options,
        )

    def maps_of(x, classes):
        bound = bind(config, run.model, run.variables, x)
        return explain_fn(
            run.logits_fn, x, classes, bound.explanation, key=key, **bound.options
        )

    similarities = np.asarray(cpu.jit(similar)(inputs, labels))
    count = similarities.shape[1]
    others = np.where(np.arange(count) == labels[:, None], -np.inf, similarities)
    nearest = np.argsort(-others, axis=-1)[:, : min(neighbours, count - 1)]
    classes = np.concatenate([labels[:, None], nearest], axis=1)
    maps = cpu.jit(maps_of)(inputs, classes)
    return Explained(
        pixels=displayed(run.preprocess.crop(pixels)),
        labels=np.asarray(labels),
        known=known,
        probs=probs,
        similarities=similarities,
        classes=classes,
        maps=np.asarray(maps),
    )
