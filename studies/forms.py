"""Named forms of class similarity, to be compared with the responses of a teacher."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax import cpu
from introspect_jax.explain import (
    Absolute,
    Cosine,
    Explanation,
    GradCAM,
    Gradient,
    GradientXInput,
    IntegratedGradients,
    Pool,
    Probes,
    Projection,
    ReLU,
    Similarity,
    SmoothGrad,
    class_similarity,
)
from introspect_jax.explain.similarity import weight_row_similarity
from introspect_jax.models import (
    last_layer,
    make_classify_fn,
    make_logits_fn,
    make_maps_fn,
)

Function = Callable[..., jax.Array]


@dataclasses.dataclass(frozen=True)
class Form:
    """An explanation with a similarity.

    Attributes:
      explanation: An explanation, or a function of the network that returns one that
        holds parts of the network.
      similarity: Similarity of explanations.
      at: `"input"`, or `"maps"` to explain with respect to the last feature maps.
      explained: `"logits"` or `"log_probs"`.
      center: See `class_similarity`.
      chunk_size: See `class_similarity`.
      class_chunk_size: See `class_similarity`.
    """

    explanation: Explanation | Callable[[nn.Module, Any], Explanation]
    similarity: Similarity
    at: str = "input"
    explained: str = "logits"
    center: bool = False
    chunk_size: int | None = None
    class_chunk_size: int | None = None

    def __call__(
        self,
        model: nn.Module,
        variables: Any,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """`[batch, classes]`."""
        inputs, function = images, make_logits_fn(model, variables)
        if self.at == "maps":
            inputs = make_maps_fn(model, variables)(images)
            function = make_classify_fn(model, variables)
        if self.explained == "log_probs":
            logits_of = function

            def function(x):
                return jax.nn.log_softmax(logits_of(x))

        explanation = self.explanation
        if callable(explanation):
            explanation = explanation(model, variables)
        return class_similarity(
            function,
            inputs,
            labels,
            explanation,
            self.similarity,
            key=key,
            chunk_size=self.chunk_size,
            class_chunk_size=self.class_chunk_size,
            center=self.center,
        )


def _grad_cam(model: nn.Module, variables: Any) -> Explanation:
    return GradCAM(make_maps_fn(model, variables), make_classify_fn(model, variables))


_GRADIENT, _COSINE, _PROJECTION = Gradient(), Cosine(), Projection()
_SMOOTH = SmoothGrad(num_samples=8)
FORMS: dict[str, Form] = {
    "gradient, projection": Form(_GRADIENT, _PROJECTION),
    "gradient, cosine": Form(_GRADIENT, _COSINE),
    "gradient, centred, cosine": Form(_GRADIENT, _COSINE, center=True),
    "gradient, absolute, cosine": Form(Absolute(_GRADIENT), _COSINE),
    "gradient, positive parts, cosine": Form(ReLU(_GRADIENT), _COSINE),
    "gradient, pooled 4x4, cosine": Form(Pool(_GRADIENT, 4), _COSINE),
    "gradient of log-probabilities, cosine": Form(
        _GRADIENT, _COSINE, explained="log_probs"
    ),
    "gradient x input, projection": Form(GradientXInput(), _PROJECTION),
    "gradient x input, cosine": Form(GradientXInput(), _COSINE),
    "SmoothGrad 8, projection": Form(_SMOOTH, _PROJECTION),
    "SmoothGrad 8, cosine": Form(_SMOOTH, _COSINE),
    "integrated gradients 8, cosine": Form(IntegratedGradients(num_steps=8), _COSINE),
    "last maps, gradient x input, cosine": Form(GradientXInput(), _COSINE, at="maps"),
    "Grad-CAM, projection": Form(_grad_cam, _PROJECTION),
    "Grad-CAM, cosine": Form(_grad_cam, _COSINE),
}
# For 1,000 classes and large images: norms by all classes for Grad-CAM only, which
# explains the last layer, and one sample or probe after the other for memory.
MANY_CLASSES: dict[str, Form] = {
    "gradient, projection": FORMS["gradient, projection"],
    "gradient, cosine by 4 probes": Form(
        _GRADIENT, Cosine(norms=Probes(4)), class_chunk_size=1
    ),
    "SmoothGrad 4, projection": Form(
        SmoothGrad(num_samples=4), _PROJECTION, chunk_size=1
    ),
    "Grad-CAM, projection": FORMS["Grad-CAM, projection"],
    "Grad-CAM, cosine": dataclasses.replace(
        FORMS["Grad-CAM, cosine"], class_chunk_size=50
    ),
}
OWN_LOGITS = "reference: own logits"
OWN_MEANS = "control: class means of own log-probabilities"
WEIGHT_ROWS = "control: weight rows, cosine"


def compiled(model: nn.Module, forms: dict[str, Form]) -> dict[str, Function]:
    """Form -> jitted `(variables, images, labels) -> similarities`."""
    key = jax.random.key(0)
    return {
        name: cpu.jit(
            lambda variables, images, labels, form=form: form(
                model, variables, images, labels, key
            )
        )
        for name, form in forms.items()
    }


def controls(
    model: nn.Module, variables: Any, logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Similarities without explanations, for comparison: each `[examples, classes]`.

    Args:
      model: The network.
      variables: Its variables.
      logits: Its logits for the examples.
      labels: Ints `[examples]`.
    """
    classes = logits.shape[1]
    log_probs = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(labels, classes)
    means = one_hot.T @ log_probs / one_hot.sum(0)[:, None]
    kernel, _ = last_layer(model, variables)
    return {
        OWN_LOGITS: logits,
        OWN_MEANS: means[labels],
        WEIGHT_ROWS: weight_row_similarity(kernel, jnp.asarray(labels), "cosine"),
    }
