"""Label smoothing."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.methods.base import (
    Context,
    Method,
    accuracy,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import cross_entropy
from introspect_jax.objectives.targets import SMOOTHINGS, smooth_labels

SUMMARY = "cross entropy with labels mixed with the uniform distribution"
SOURCE = "Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7"


def default_config() -> ConfigDict:
    """`epsilon`: mass moved; `spread`: "uniform" (e / K) or "others" (e / (K - 1))."""
    return ConfigDict({"epsilon": 0.1, "spread": "uniform"})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: epsilon outside of [0, 1), or an unknown spread.
    """
    if not 0 <= config.epsilon < 1:
        raise UserError(
            f"method.label_smoothing.epsilon must lie in [0, 1), got {config.epsilon}"
        )
    if config.spread not in SMOOTHINGS:
        raise UserError(
            unknown("method.label_smoothing.spread", config.spread, SMOOTHINGS)
        )
    epsilon, spread = config.epsilon, config.spread

    def loss(params, model_state, method_state, batch, step, key):
        del step, key
        logits, model_state = forward(
            context.model, params, model_state, batch["image"]
        )
        targets = smooth_labels(batch["label"], context.num_classes, epsilon, spread)
        value = jnp.mean(cross_entropy(logits, targets))
        metrics = {"accuracy": accuracy(logits, batch["label"])}
        return value, (model_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)
