"""Double backpropagation: a penalty on the gradient with respect to the image."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    squared_length,
)
from introspect_jax.objectives.targets import label_target
from introspect_jax.options import check_range

SUMMARY = "cross entropy plus its squared gradient with respect to the image"
COST = "2.01x FLOPs of standard"
SOURCE = (
    "Drucker and LeCun, Improving Generalization Performance Using Double "
    "Backpropagation, 1992; Ross and Doshi-Velez, AAAI 2018 (arXiv 1711.09404)"
)


def default_config() -> ConfigDict:
    """`weight`: w of `CE + w |dCE/dx|^2`, per example.

    x is the normalised image that the network is given. There is one forward pass, in
    train mode, and the gradient is that of the sum of the batch's losses. With batch
    normalisation it has a share by way of the statistics, on which all of these losses
    depend. That share does not depend on the size of the batch.

    No weight is published for these data. The released code of Ross and Doshi-Velez
    takes the gradient of the mean over the batch and the sum of its squares, half of
    it, so that its weights of 1e2 to 1e5 with 256 examples are w of 0.2 to 195 here.
    """
    return ConfigDict({"weight": 0.1})


def check(config: ConfigDict) -> None:
    """Raises a UserError if the weight is out of range."""
    check_range("method.double_backprop.", config, weight=(0, float("inf"), "[)"))


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: a negative weight.
    """
    check(config)
    weight = config.weight

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels = batch["label"]

        def summed(images):
            logits, state = forward(context.model, params, model_state, images, key)
            hard = cross_entropy(logits, labels)
            return jnp.sum(hard), (logits, hard, state)

        gradient, (logits, hard, model_state) = jax.grad(summed, has_aux=True)(
            batch["image"]
        )
        penalty = squared_length(gradient)
        value, metrics = averaged(
            logits,
            labels,
            hard + weight * penalty,
            {
                "cross_entropy": hard,
                "gradient_penalty": penalty,
                "loss_weights": 1.0 + weight,
                **describe_target(label_target(labels, context.num_classes), labels),
            },
        )
        return value, (model_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)
