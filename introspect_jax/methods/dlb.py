"""DLB: distillation from the outputs for the same examples one step ago."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    LAST_BATCH,
    Context,
    Method,
    averaged,
    forward,
    init_network,
    labelled_means,
    predict_network,
)
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    distillation,
)
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "distillation from the network's outputs for the same examples one step ago"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "Shen et al., Self-Distillation from the Last Mini-Batch for Consistency "
    "Regularization, CVPR 2022 (arXiv 2203.16172)"
)


def default_config() -> ConfigDict:
    """`CE + alpha T^2 KL(p_T of the last step || p_T now)`.

    The first half of a batch are the examples of the second half of the batch before,
    augmented anew. CE is the mean over the whole batch, the divergence the mean over
    its first half, as in the released code; the first step has none.

    A step sees as many images as one of other methods and costs the same, but half of
    them are new: an epoch of steps shows every second image, each of them twice, and
    two epochs show all. The released code goes through all images in an epoch of twice
    the images, so its E epochs are 2E here, with a `batch_size` that is twice its own.
    It passes the halves through the network one after the other, and its BatchNorm
    sees each half on its own; here they are one batch.

    With `data.augment.flip=alternating` both views of an image have the same side, and
    the sides do not alternate from pass to pass: flips follow the epochs of steps.

    `temperature` and `alpha` are from a second-hand description of the paper; the
    released code has no defaults.
    """
    return ConfigDict({"alpha": 1.0, "temperature": 3.0})


def check(config: ConfigDict) -> None:
    """Raises a UserError for options that are out of range."""
    check_range(
        "method.dlb.",
        config,
        alpha=(0, float("inf"), "[)"),
        temperature=(0, float("inf"), "()"),
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, a batch that has no half, or an augmentation
        that mixes examples.
    """
    check(config)
    if context.batch_size % 2:
        raise UserError(
            "dlb shows the second half of a batch again in the next, so batch_size "
            f"must be even, got {context.batch_size}"
        )
    if context.mixes_examples:
        raise UserError(
            "dlb compares the outputs for an image with those of one step ago, and "
            "mixup and cutmix mix it with another; set data.augment.mixup and "
            "data.augment.cutmix to 0"
        )
    alpha, temperature = config.alpha, config.temperature
    rows = context.batch_size // 2

    def carried():
        return {
            "logits": jnp.zeros((rows, context.num_classes), float),
            "index": jnp.full(rows, -1, jnp.int32),
        }

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels, index = batch["label"], batch["index"]
        logits, model_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        half = len(index) // 2
        # A part of a batch has fewer rows; it is refused where parts are combined.
        last = {name: value[:half] for name, value in method_state.items()}
        # Without label: the examples that were not in the last step.
        again = (last["index"] == index[:half])[:, None]
        paired = jnp.where(again, labels[:half], 0)
        target = teacher_target(last["logits"], temperature)
        metrics = labelled_means(
            paired,
            {
                "distillation": distillation(
                    logits[:half], paired, target, temperature
                ),
                **describe_target(target, paired),
            },
        )
        hard = cross_entropy(logits, labels)
        value, means = averaged(
            logits,
            labels,
            hard,
            {"cross_entropy": hard, "loss_weights": 1.0 + alpha},
        )
        value = value + alpha * metrics["distillation"]
        second = jax.lax.stop_gradient(logits[half:]).astype(float)
        method_state = {"logits": second, "index": index[half:]}
        return value, (model_state, method_state, metrics | means)

    return Method(
        init_network(context, carried),
        loss,
        predict_network,
        context.model,
        carries={"logits": LAST_BATCH, "index": LAST_BATCH},
        sampler=make_sampler(context),
    )


def make_sampler(context: Context) -> Callable[[int], np.ndarray] | None:
    """step -> positions `[batch]`: the new ones of the step before, then new ones.

    The new examples are those of `Context.order`, half a batch a step. The first step
    is the first batch of that order with its halves exchanged. None where there is no
    order.
    """
    order, half = context.order, context.batch_size // 2
    if order is None:
        return None

    def new(step: int) -> np.ndarray:
        start = step % 2 * half
        return order(step // 2)[start : start + half]

    def sampler(step: int) -> np.ndarray:
        return np.concatenate([new(step - 1 if step else 1), new(step)])

    return sampler
