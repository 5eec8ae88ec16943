"""Adam with decoupled weight decay."""

import optax
from ml_collections import ConfigDict

SUMMARY = "Adam with decoupled weight decay (Loshchilov and Hutter 2019)"


def make(
    config: ConfigDict, schedule: optax.Schedule, decayed
) -> list[optax.GradientTransformation]:
    """b1 is `config.momentum`."""
    return [
        optax.adamw(
            schedule,
            b1=config.momentum,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=decayed,
        )
    ]
