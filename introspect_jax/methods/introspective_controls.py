"""Controls for introspective learning: other sources of class similarity."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.binding import bind
from introspect_jax.explain import class_similarity
from introspect_jax.explain.similarity import weight_row_similarity
from introspect_jax.keys import stream_key
from introspect_jax.methods.base import Batch, Context
from introspect_jax.methods.terms import shuffle_keys
from introspect_jax.models import init_variables, last_layer, make_logits_fn
from introspect_jax.objectives.components import component, update_class_means
from introspect_jax.objectives.targets import SoftTarget, similarity_target

PyTree = Any
SOURCES = {
    "explanations": "of the network itself",
    "random_network": "control: explanations of an untrained network",
    "weight_rows": "control: the last layer's weight rows, which see no image",
    "confusion": "control: a running mean of the outputs for each class",
    "entropy_matched": "control: label smoothing as sure of each example",
}
# These do not explain a network. `entropy_matched` does; its target is replaced later.
_OTHERS = ("weight_rows", "confusion")


def constants(config: ConfigDict, context: Context) -> dict[str, PyTree]:
    """Constants for `Method.constants`: the untrained network of `random_network`."""
    if config.source != "random_network":
        return {}
    key = stream_key(np.uint32(context.seed), "random_network", 0)
    params, statistics = jax.jit(
        lambda key: init_variables(context.model, context.image_shape, key)
    )(key)
    return {"random_network": {"params": params, **statistics}}


def is_introspection(config: ConfigDict) -> bool:
    """Whether `introspect` gives the soft target without further changes."""
    return config.source not in _OTHERS and not config.remove_class_mean


def soft_target(
    config: ConfigDict,
    context: Context,
    variables: PyTree,
    method_state: PyTree,
    batch: Batch,
    logits: jax.Array,
    key: jax.Array,
) -> tuple[SoftTarget, PyTree]:
    """Soft target of a control or without class means, and the method state.

    Args:
      config: Config of the method `introspective`.
      context: Context passed to `make`.
      variables: Variables of the explained network.
      method_state: Method state with the running means.
      batch: Examples.
      logits: Logits of the trained network, `[batch, classes]`.
      key: Random key of the step.
    """
    labels = batch["label"]
    if config.source == "weight_rows":
        kernel, _ = last_layer(context.model, variables)
        similarities = weight_row_similarity(
            kernel, labels, config.similarity, center=config.center
        )
    elif config.source == "confusion":
        similarities, method_state = _confusion(config, method_state, labels, logits)
    else:
        bound = bind(config, context.model, variables, batch["image"])
        similarities = class_similarity(
            make_logits_fn(context.model, variables),
            batch["image"],
            labels,
            bound.explanation,
            bound.similarity,
            key=key,
            **bound.options,
        )
    if config.remove_class_mean:
        similarities, method_state = _without_class_mean(
            config, method_state, labels, similarities
        )
    target = similarity_target(
        similarities, labels, temperature=config.temperature, support=config.support
    )
    if config.stop_gradient:
        target = jax.lax.stop_gradient(target)
    return target, method_state


def target_component(
    config: ConfigDict,
    target: SoftTarget,
    method_state: PyTree,
    batch: Batch,
    key: jax.Array,
) -> tuple[SoftTarget, PyTree]:
    """Part of the target that is used, and the method state."""
    if "class_means" in method_state:
        means = update_class_means(
            method_state["class_means"],
            jax.lax.stop_gradient(target.probs),
            batch["label"],
            config.class_decay,
        )
        method_state = method_state | {"class_means": means}
    part = component(
        target,
        batch["label"],
        config.component,
        keys=shuffle_keys(config.permutation, batch, jax.random.fold_in(key, 1)),
        class_means=method_state.get("class_means"),
    )
    return part, method_state


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


def _without_class_mean(
    config: ConfigDict, method_state: PyTree, labels: jax.Array, similarities: jax.Array
) -> tuple[jax.Array, PyTree]:
    """Similarities minus the running mean of their class: the example-specific part."""
    means = update_class_means(
        method_state["similarity_means"],
        jax.lax.stop_gradient(similarities),
        labels,
        config.class_decay,
    )
    own = jnp.matmul(labels, means, precision=jax.lax.Precision.HIGHEST)
    return similarities - own, method_state | {"similarity_means": means}
