"""What class similarities are computed from: explanations, or a control."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.binding import bind
from introspect_jax.explain import Centered, class_similarity
from introspect_jax.explain.similarity import logit_similarity, weight_row_similarity
from introspect_jax.keys import stream_key
from introspect_jax.methods.base import Batch, Context
from introspect_jax.models import init_variables, last_layer, make_logits_fn, offers
from introspect_jax.objectives.components import update_class_means

PyTree = Any
# Its similarities are those of `explanations`; the target is replaced later.
SMOOTHED_LABELS = "smoothed_labels"
SOURCES = {
    "explanations": "of the network itself",
    "random_network": "control: explanations of an untrained network",
    "own_logits": "control: products of the network's own logits, less their bias; a "
    "standard step and a forward pass",
    "covariance": "control: Grad-CAM less its mean over space, of which the logits "
    "are made; the cost of Grad-CAM",
    "weight_rows": "control: the last layer's weight rows, which see no image",
    "confusion": "control: a running mean of the outputs for each class",
    SMOOTHED_LABELS: "control: label smoothing as sure of each example",
}


def random_network(context: Context) -> dict[str, PyTree]:
    """The untrained network of `random_network`, for `Method.constants`."""
    key = stream_key(np.uint32(context.seed), "random_network", 0)
    params, statistics = jax.jit(
        lambda key: init_variables(context.model, context.image_shape, key)
    )(key)
    return {"random_network": {"params": params, **statistics}}


def explanation_config(config: ConfigDict, source: str) -> ConfigDict:
    """The config for `bind`: `covariance` is of Grad-CAM, whatever is explained."""
    if source != "covariance":
        return config
    config = ConfigDict(config.to_dict())
    config.explanation = "grad_cam"
    return config


def similarities(
    source: str,
    config: ConfigDict,
    context: Context,
    variables: PyTree,
    method_state: PyTree,
    batch: Batch,
    logits: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, PyTree]:
    """Similarities `[batch, classes]` of a source, and the method state.

    Args:
      source: One of `SOURCES`.
      config: Config of the method `introspective`.
      context: Context passed to `make`.
      variables: Variables of the explained network.
      method_state: Method state, with the running means of `confusion`.
      batch: Examples.
      logits: Logits of the trained network, `[batch, classes]`.
      key: Random key of the step.
    """
    model, labels = context.model, batch["label"]
    kind = {"similarity": config.similarity, "center": config.center}
    if source == "weight_rows":
        kernel, _ = last_layer(model, variables)
        return weight_row_similarity(kernel, labels, **kind), method_state
    if source == "confusion":
        return _confusion(config, method_state, labels, logits)
    if source == "own_logits":
        bias = None
        if offers(model, "last_layer"):
            _, bias = last_layer(model, variables)
        own = make_logits_fn(model, variables)(batch["image"])
        return logit_similarity(own, labels, bias=bias, **kind), method_state
    if source == "random_network":
        variables = batch["constants"]["random_network"]
    config = explanation_config(config, source)
    centred = source == "covariance"
    found = _of_explanations(config, context, variables, batch, key, centred)
    return found, method_state


def _of_explanations(
    config: ConfigDict,
    context: Context,
    variables: PyTree,
    batch: Batch,
    key: jax.Array,
    centred: bool,
) -> jax.Array:
    """Similarities `[batch, classes]` of explanations, less their mean if `centred`."""

    def similarities_of(rows: PyTree, common: PyTree) -> PyTree:
        variables, images, key = common
        bound = bind(config, context.model, variables, images)
        return class_similarity(
            make_logits_fn(context.model, variables),
            rows["image"],
            rows["label"],
            Centered(bound.explanation) if centred else bound.explanation,
            bound.similarity,
            key=key,
            index=rows["number"],
            **bound.options,
        )

    images = batch["image"]
    several = bind(config, context.model, variables, images).several
    function = context.by_device(similarities_of) if several else similarities_of
    rows = {"image": images, "label": batch["label"], "number": jnp.arange(len(images))}
    found: jax.Array = function(rows, (variables, images, key))
    return found


def _confusion(
    config: ConfigDict, method_state: PyTree, labels: jax.Array, logits: jax.Array
) -> tuple[jax.Array, PyTree]:
    """Logarithms of the running class means of the output probabilities."""
    probs = jax.lax.stop_gradient(jax.nn.softmax(logits.astype(jnp.float32)))
    means = update_class_means(
        method_state["confusion"], probs, labels, config.class_decay
    )
    smallest = jnp.finfo(means.dtype).tiny
    rows = jnp.matmul(labels, means, precision=jax.lax.Precision.HIGHEST)
    similarities = jnp.log(jnp.maximum(rows, smallest))
    return similarities, method_state | {"confusion": means}
