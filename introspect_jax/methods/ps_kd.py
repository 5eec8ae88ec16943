"""PS-KD: labels mixed with the network's outputs of the epoch before."""

import math

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    BY_EXAMPLE,
    Context,
    Method,
    averaged,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import past_target
from introspect_jax.options import check_range

SUMMARY = "labels mixed with the network's own outputs of an epoch ago"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "Kim et al., Self-Knowledge Distillation with Progressive Refinement of Targets, "
    "ICCV 2021 (arXiv 2006.12000)"
)


def default_config() -> ConfigDict:
    """`alpha` in the last epoch; it grows linearly, `alpha t / T` in epoch t of T.

    The method carries the outputs for all N training examples, float32 `[N, classes]`:
    18 MB for CIFAR-100, 5 GB for ImageNet.
    """
    return ConfigDict({"alpha": 0.8})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: alpha outside of [0, 1], or an augmentation that mixes examples.
    """
    check_range("method.ps_kd.", config, alpha=(0, 1, "[]"))
    if context.mixes_examples:
        raise UserError(
            "ps_kd remembers what was said of each image, which mixup and cutmix mix; "
            "set data.augment.mixup and data.augment.cutmix to 0"
        )
    epochs = math.ceil(context.total_steps / context.steps_per_epoch)
    final = config.alpha

    def carried():
        shape = (context.num_examples, context.num_classes)
        return {"memory": jnp.zeros(shape, jnp.float32)}

    def loss(params, model_state, method_state, batch, step, key):
        labels, index = batch["label"], batch["index"]
        logits, model_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        alpha = final * (step // context.steps_per_epoch + 1) / epochs
        # An example comes once an epoch at most, so this is from an epoch before.
        target = past_target(labels, method_state["memory"][index], alpha)
        said = jax.lax.stop_gradient(jax.nn.softmax(logits.astype(jnp.float32)))
        method_state = {"memory": method_state["memory"].at[index].set(said)}
        value, metrics = averaged(
            logits,
            labels,
            cross_entropy(logits, target.probs),
            {
                "loss_weights": 1.0,
                "alpha": alpha,
                **describe_target(target, labels),
            },
        )
        return value, (model_state, method_state, metrics)

    return Method(
        init_network(context, carried),
        loss,
        predict_network,
        context.model,
        carries={"memory": BY_EXAMPLE},
    )
