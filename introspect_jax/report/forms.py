"""Forms of class similarity that are held against soft responses, by name."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax.explain.similarity import class_similarity, weight_row_similarity
from introspect_jax.models import make_logits_fn, make_maps_head


@dataclasses.dataclass(frozen=True)
class Form:
    """What is compared with what.

    Attributes:
      similarity: see `class_similarity`.
      method: explanation method.
      at: `"input"`, or `"maps"`: the last feature maps are explained as if they were
        the input.
      explained: `"logits"` or `"log_probs"`.
      options: of the method.
    """

    similarity: str
    method: str = "gradient"
    at: str = "input"
    explained: str = "logits"
    options: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __call__(
        self,
        model: nn.Module,
        variables: Any,
        images: jax.Array,
        labels: jax.Array,
        key: jax.Array,
    ) -> jax.Array:
        """`[batch, classes]`."""
        logits_fn = make_logits_fn(model, variables)
        head = make_maps_head(model, variables)
        inputs, function = images, logits_fn
        if self.at == "maps":
            inputs, function = head[0](images), head[1]
        if self.explained == "log_probs":
            logits_of = function

            def function(x):
                return jax.nn.log_softmax(logits_of(x))

        return class_similarity(
            function,
            inputs,
            labels,
            method=self.method,
            similarity=self.similarity,
            head=head if self.method == "grad_cam" else None,
            key=key,
            **self.options,
        )


_SAMPLES = {"num_samples": 8}
FORMS: dict[str, Form] = {
    "gradient, projection": Form("projection"),
    "gradient, cosine": Form("cosine"),
    "gradient, centred, cosine": Form("cosine", options={"center": True}),
    "gradient, absolute, cosine": Form("cosine", options={"nonlinearity": "absolute"}),
    "gradient, positive parts, cosine": Form(
        "cosine", options={"nonlinearity": "relu"}
    ),
    "gradient, pooled 4x4, cosine": Form("cosine", options={"pool": 4}),
    "gradient of log-probabilities, cosine": Form("cosine", explained="log_probs"),
    "gradient x input, projection": Form("projection", "gradient_x_input"),
    "gradient x input, cosine": Form("cosine", "gradient_x_input"),
    "SmoothGrad 8, projection": Form("projection", "smoothgrad", options=_SAMPLES),
    "SmoothGrad 8, cosine": Form("cosine", "smoothgrad", options=_SAMPLES),
    "integrated gradients 8, cosine": Form(
        "cosine", "integrated_gradients", options={"num_steps": 8}
    ),
    "last maps, gradient x input, cosine": Form("cosine", "gradient_x_input", "maps"),
    "Grad-CAM, projection": Form("projection", "grad_cam"),
    "Grad-CAM, cosine": Form("cosine", "grad_cam"),
}
OWN_LOGITS = "reference: own logits"
OWN_MEANS = "control: class means of own log-probabilities"
WEIGHT_ROWS = "control: weight rows, cosine"


def controls(
    variables: Any, logits: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """What explanations must beat: each `[examples, classes]`.

    Args:
      variables: of the network.
      logits: its own, of the examples.
      labels: ints `[examples]`.
    """
    classes = logits.shape[1]
    log_probs = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(labels, classes)
    means = one_hot.T @ log_probs / one_hot.sum(0)[:, None]
    kernel = variables["params"]["head"]["kernel"]
    return {
        OWN_LOGITS: logits,
        OWN_MEANS: means[labels],
        WEIGHT_ROWS: weight_row_similarity(
            kernel, jnp.asarray(labels), similarity="cosine"
        ),
    }
