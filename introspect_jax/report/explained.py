"""Images, what a network says of them, and why: what pictures are made of."""

import dataclasses

import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.binding import bind
from introspect_jax.data.preprocess import displayed
from introspect_jax.explain import class_similarity, explain_fn
from introspect_jax.restore import Run

NEIGHBOURS = 3


@dataclasses.dataclass(frozen=True)
class Explained:
    """Explained images.

    Attributes:
      pixels: uint8 `[images, h, w, c]`, as the network sees them.
      labels: int `[images]`, whose explanation the others are compared with.
      known: whether labels are the truth; otherwise they are what the network says.
      probs: `[images, classes]`.
      similarities: `[images, classes]`.
      classes: int `[images, m]`, which are explained: the label, then the most similar.
      maps: `[images, m, h, w, c]`, their explanations.
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
    """Test images, half of them wrongly classified where there are as many.

    Which ones depends on the seed of the run alone.

    Returns:
      Pixels `[count, h, w, c]` as read and labels `[count]`, the wrong ones first.
    """
    generator = np.random.RandomState(run.config.seed)
    test = run.dataset.test
    # Enough to find mistakes of a network that makes few.
    looked_at = np.sort(generator.permutation(len(test))[: max(240, 4 * count)])
    pixels, labels = test.take(looked_at)
    wrong = predict(run, pixels).argmax(-1) != labels
    order = generator.permutation(len(labels))
    mistakes = order[wrong[order]][: count // 2]
    rest = order[~wrong[order]][: count - len(mistakes)]
    chosen = np.concatenate([mistakes, rest]).astype(int)
    return pixels[chosen], labels[chosen]


def predict(run: Run, pixels: np.ndarray) -> np.ndarray:
    """Probabilities `[images, classes]`."""
    probs_fn = jax.jit(lambda x: jax.nn.softmax(run.logits_fn(x)))
    return np.asarray(probs_fn(run.preprocess(pixels)))


def explain(
    run: Run,
    pixels: np.ndarray,
    labels: np.ndarray | None,
    config: ConfigDict,
    *,
    neighbours: int = NEIGHBOURS,
) -> Explained:
    """Explains images as `config` says.

    Args:
      run: Of the network.
      pixels: `[images, h, w, c]`, as read.
      labels: `[images]`, or None to explain what the network says.
      config: Of `binding.for_pictures`.
      neighbours: Classes beside the label, the most similar first.
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

    similarities = np.asarray(jax.jit(similar)(inputs, labels))
    count = similarities.shape[1]
    others = np.where(np.arange(count) == labels[:, None], -np.inf, similarities)
    nearest = np.argsort(-others, axis=-1)[:, : min(neighbours, count - 1)]
    classes = np.concatenate([labels[:, None], nearest], axis=1)
    maps = jax.jit(maps_of)(inputs, classes)
    return Explained(
        pixels=displayed(run.preprocess.crop(pixels)),
        labels=np.asarray(labels),
        known=known,
        probs=probs,
        similarities=similarities,
        classes=classes,
        maps=np.asarray(maps),
    )
