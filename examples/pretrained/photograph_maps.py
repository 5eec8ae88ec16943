"""Explanations of photographs by a trained network, for the page."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    Explanation,
    GradCAM,
    Gradient,
    IntegratedGradients,
    SmoothGrad,
)
from introspect_jax.explain.metrics import completeness_error
from introspect_jax.explain.similarity import weight_row_similarity
from introspect_jax.models.protocol import last_layer, make_classify_fn, make_maps_fn
from introspect_jax.trained import Trained

SAMPLES, NOISE = 128, 0.15  # of SmoothGrad; the noise as a share of max - min
STEPS = 256  # of integrated gradients
SEED = 0  # of the noise
# Samples or steps at once; memory grows with it.
CHUNK = 16
COMPLETE = "integrated gradients"


@dataclasses.dataclass(frozen=True)
class Shown:
    """A map of the top class, summed over channels.

    Attributes:
      values: `[h, w, 1]`, of the size of the image.
      unit: Of a value.
    """

    values: np.ndarray
    unit: str


@dataclasses.dataclass(frozen=True)
class Explained:
    """A photograph with the outputs and explanations of a network.

    Attributes:
      name: Of the photograph.
      pixels: uint8 `[h, w, 3]`.
      logits: `[classes]`.
      maps: Title -> map of the top class.
      similarities: Of all classes to the top class by input gradients, `[classes]`.
      weight_rows: The same by the weight rows of the last layer, a control.
      error: Completeness error of integrated gradients, in logits.
      change: Logit of the top class minus that of the baseline.
    """

    name: str
    pixels: np.ndarray
    logits: np.ndarray
    maps: dict[str, Shown]
    similarities: np.ndarray
    weight_rows: np.ndarray
    error: float
    change: float

    @property
    def top(self) -> int:
        """The top class."""
        return int(self.logits.argmax())

    @property
    def probs(self) -> np.ndarray:
        """Probabilities `[classes]`."""
        shifted = np.exp(self.logits - self.logits.max())
        return shifted / shifted.sum()


def explain(
    net: Trained,
    names: list[str],
    pixels: np.ndarray,
    report: Callable[[str], None] = lambda line: None,
) -> list[Explained]:
    """Explains the top class of each photograph, one photograph at a time.

    Args:
      net: Network with `maps`, `classify` and `last_layer`.
      names: Of the photographs.
      pixels: uint8 `[n, h, w, 3]`, as the network sees them.
      report: Called with a line of progress.
    """
    # The network is compiled, not its explanations: these are a loop over chunks, which
    # a compiler for CPUs unrolls, and would compile the network once for each of them.
    logits_fn = jax.jit(net.logits_fn)
    explanations = _explanations(net)
    kernel, _ = last_layer(net.model, net.variables)
    found = []
    for number, (name, image) in enumerate(zip(names, pixels, strict=True)):
        x = net.preprocess(image[None])
        logits = logits_fn(x)
        y = logits.argmax(-1)
        maps = {}
        for title, (explanation, unit) in explanations.items():
            values = explain_fn(
                logits_fn,
                x,
                y,
                explanation,
                key=jax.random.key(SEED),
                index=jnp.array([number]),
                chunk_size=CHUNK,
            )
            if title == COMPLETE:
                error = completeness_error(logits_fn, x, y, values)
                change = values.sum() - error[0]
            maps[title] = Shown(
                _enlarged(values[0].sum(-1, keepdims=True), image), unit
            )
            report(f"{name}: {title}")
        found.append(
            Explained(
                name=name,
                pixels=image,
                logits=np.asarray(logits[0]),
                maps=maps,
                similarities=np.asarray(class_similarity(logits_fn, x, y)[0]),
                weight_rows=np.asarray(weight_row_similarity(kernel, y)[0]),
                error=float(error[0]),
                change=float(change),
            )
        )
    return found


def _explanations(net: Trained) -> dict[str, tuple[Explanation, str]]:
    """Title -> explanation, and the unit of its maps. A unit of the network's inputs is
    that to which pixels are normalised."""
    maps_fn = jax.jit(make_maps_fn(net.model, net.variables))
    classify_fn = jax.jit(make_classify_fn(net.model, net.variables))
    return {
        "gradient": (Gradient(), "logits/unit"),
        "SmoothGrad": (SmoothGrad(SAMPLES, NOISE), "logits/unit"),
        COMPLETE: (IntegratedGradients(STEPS), "logits/pixel"),
        "Grad-CAM": (GradCAM(maps_fn, classify_fn), "logits/cell"),
    }


def _enlarged(values: jax.Array, image: np.ndarray) -> np.ndarray:
    """A map `[h', w', 1]` at the size of the image, by cubic interpolation."""
    return np.asarray(jax.image.resize(values, (*image.shape[:2], 1), "cubic"))
