"""OLS: labels mixed with the mean outputs for their class in the last epoch."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    MEAN,
    Context,
    Method,
    PyTree,
    averaged,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import (
    correct_sums,
    smooth_by_similarity,
    whole_target,
)
from introspect_jax.options import check_range

SUMMARY = "labels mixed with the class's mean correct outputs of the last epoch (OLS)"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "Zhang et al., Delving Deep into Label Smoothing, IEEE TIP 2021 (arXiv 2011.12562)"
)


def default_config() -> ConfigDict:
    """`alpha CE(y, p) + (1 - alpha) CE(S_y, p)`, one row S_y of soft labels a class.

    S_y is the mean of the outputs, as they were in training, for the examples of class
    y that were classified correctly in the last epoch. It is uniform in the first
    epoch, and for a class without such an example in the last one.

    alpha is that of the authors' code for CIFAR. For an empty class that code has a
    uniform row too, and for the first epoch zeros: `alpha CE` alone. Their code for
    fine-grained data begins with uniform rows, has the weights 1 and 1, and keeps a row
    once its largest entry is 0.88.

    The method carries two matrices `[classes, classes]`, 8 MB for ImageNet.
    """
    return ConfigDict({"alpha": 0.5})


def check(config: ConfigDict) -> None:
    """Raises a UserError for an alpha outside of [0, 1]."""
    check_range("method.ols.", config, alpha=(0, 1, "[]"))


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: alpha outside of [0, 1], or an augmentation that mixes examples.
    """
    check(config)
    if context.mixes_examples:
        raise UserError(
            "ols takes the mean of the outputs for the images of a class, which mixup "
            "and cutmix mix; set data.augment.mixup and data.augment.cutmix to 0"
        )
    classes, alpha = context.num_classes, config.alpha

    def carried():
        square = (classes, classes)
        return {
            "rows": jnp.full(square, 1 / classes, float),
            "sums": jnp.zeros(square, float),
        }

    def loss(params, model_state, method_state, batch, step, key):
        labels = batch["label"]
        logits, model_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        turns = step % context.steps_per_epoch == 0
        method_state = turned(method_state, turns)
        soft = smooth_by_similarity(labels, method_state["rows"], 1 - alpha)
        value, metrics = averaged(
            logits,
            labels,
            cross_entropy(logits, soft),
            {
                "cross_entropy": cross_entropy(logits, labels),
                "loss_weights": 1.0,
                **describe_target(whole_target(soft), labels),
            },
        )
        method_state = counted(method_state, logits, labels)
        return value, (model_state, method_state, metrics)

    return Method(
        init_network(context, carried),
        loss,
        predict_network,
        context.model,
        carries={"rows": MEAN, "sums": MEAN},
    )


def turned(method_state: PyTree, turns: jax.Array | bool) -> PyTree:
    """The method state after the end of an epoch, where `turns`; else as it is.

    All parts of a step are given the same state and number of the step, so that they
    all turn or none does.
    """
    rows, sums = method_state["rows"], method_state["sums"]
    # Of each class, the number of examples: each added probabilities that sum to 1.
    counts = jnp.sum(sums, axis=-1, keepdims=True)
    means = jnp.where(
        counts > 0, sums / jnp.where(counts > 0, counts, 1), 1 / len(rows)
    )
    return {
        "rows": jnp.where(turns, means, rows),
        "sums": jnp.where(turns, 0, sums),
    }


def counted(method_state: PyTree, logits: jax.Array, labels: jax.Array) -> PyTree:
    """The method state with the outputs for these examples.

    Their sums are divided by the number of examples: the mean over the parts of a
    batch, weighted by their numbers, is then that of the batch.
    """
    sums = correct_sums(logits, labels) / len(labels)
    return method_state | {"sums": method_state["sums"] + sums.astype(float)}
