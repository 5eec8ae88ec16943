"""Stochastic gradient descent with momentum."""

import optax
from ml_collections import ConfigDict

SUMMARY = "SGD with momentum; weight decay is added to the gradient before it"


def make(
    config: ConfigDict, schedule: optax.Schedule, decayed
) -> list[optax.GradientTransformation]:
    """Returns weight decay and SGD in the order of the published recipes."""
    return [
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
        optax.sgd(schedule, config.momentum or None, nesterov=config.nesterov),
    ]
