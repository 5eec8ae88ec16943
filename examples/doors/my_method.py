"""A training method of one's own: the focal loss (Lin et al., ICCV 2017).

From this folder:

    python ../../launch/main.py --config=../../configs/digits.py \
        --config.method.name=my_method:focal --config.method.options.gamma=2.0
"""

import jax.numpy as jnp

from introspect_jax.methods import Context, Method
from introspect_jax.methods.base import one_network
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import label_target


def focal(context: Context, gamma: float = 1.0) -> Method:
    """`(1 - p_y)^gamma CE`."""

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        hard = cross_entropy(logits, labels)
        metrics = describe_target(label_target(labels, context.num_classes), labels)
        # Above 0, where the power has a gradient.
        wrong = jnp.maximum(-jnp.expm1(-hard), 1e-6)
        loss = wrong**gamma * hard
        return loss, metrics | {"cross_entropy": hard, "loss_weights": 1.0}

    return one_network(context, objective)
