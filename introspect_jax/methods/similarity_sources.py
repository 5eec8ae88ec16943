"""What introspective learning compares: `SOURCES` of class similarity."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.explain.similarity import class_similarity, weight_row_similarity
from introspect_jax.keys import stream_key
from introspect_jax.methods.base import Batch, Context, init_variables
from introspect_jax.methods.explaining import explanation_options
from introspect_jax.models import make_logits_fn
from introspect_jax.objectives.components import update_class_means

PyTree = Any
SOURCES = {
    "explanations": "of the network itself",
    "random_network": "control: explanations of an untrained network",
    "weight_rows": "control: the last layer's weight rows, which see no image",
    "confusion": "control: a running mean of the outputs for each class",
    "entropy_matched": "control: label smoothing as sure of each example",
}


def constants(config: ConfigDict, context: Context) -> dict[str, PyTree]:
    """For `Method.constants`: the network that stays as it was, where there is one."""
    if config.source != "random_network":
        return {}
    key = stream_key(np.uint32(context.seed), "random_network", 0)
    params, statistics = jax.jit(lambda k: init_variables(context, k))(key)
    return {"random_network": {"params": params, **statistics}}


def make_similarities(
    config: ConfigDict, context: Context
) -> Callable[..., tuple[jax.Array, PyTree]]:
    """`(variables, method_state, batch, logits, key) -> (similarities, method_state)`.

    The similarities are `[batch, classes]`, to the label of each example; for
    `confusion` the logarithms of the running means. `entropy_matched` replaces the
    target afterwards, and has the network's own until then.
    """
    source = config.source

    def similarities(
        variables: PyTree,
        method_state: PyTree,
        batch: Batch,
        logits: jax.Array,
        key: jax.Array,
    ) -> tuple[jax.Array, PyTree]:
        images, labels = batch["image"], batch["label"]
        if source == "weight_rows":
            kernel = variables["params"]["head"]["kernel"]
            found = weight_row_similarity(
                kernel, labels, similarity=config.similarity, center=config.center
            )
            return found, method_state
        if source == "confusion":
            said = jax.lax.stop_gradient(jax.nn.softmax(logits.astype(jnp.float32)))
            means = update_class_means(
                method_state["confusion"], said, labels, config.class_decay
            )
            smallest = jnp.finfo(means.dtype).tiny
            rows = jnp.matmul(labels, means, precision=jax.lax.Precision.HIGHEST)
            found = jnp.log(jnp.maximum(rows, smallest))
            return found, method_state | {"confusion": means}
        if source == "random_network":
            variables = batch["constants"]["random_network"]
        found = class_similarity(
            make_logits_fn(context.model, variables),
            images,
            labels,
            similarity=config.similarity,
            norms=config.norms,
            **explanation_options(config, context.model, variables, images, key),
        )
        return found, method_state

    return similarities
