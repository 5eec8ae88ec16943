"""Cross entropy with the labels."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.base import (
    Context,
    Method,
    accuracy,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import cross_entropy

SUMMARY = "cross entropy with the labels"
SOURCE = "the baseline of every comparison"


def default_config() -> ConfigDict:
    """No options."""
    return ConfigDict()


def make(config: ConfigDict, context: Context) -> Method:
    """The method; `config` has no fields."""
    del config

    def loss(params, model_state, method_state, batch, step, key):
        del step, key
        logits, model_state = forward(
            context.model, params, model_state, batch["image"]
        )
        value = jnp.mean(cross_entropy(logits, batch["label"]))
        metrics = {"accuracy": accuracy(logits, batch["label"])}
        return value, (model_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)
