"""DKD: distillation whose two parts, of the label and of the others, have weights."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.methods.terms import teacher_constant, teacher_logits
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    nckd,
    tckd,
)
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "distillation with a weight for the label and one for the other classes"
COST = "1.33x FLOPs of standard, with a teacher of its kind"
SOURCE = (
    "Zhao et al., Decoupled Knowledge Distillation, CVPR 2022 (arXiv 2203.08679); "
    "defaults: megvii-research/mdistiller"
)
TEACHER = "any network"


def default_config() -> ConfigDict:
    """`CE + r (alpha TCKD + beta NCKD)`, the two divergences times T^2.

    The weight r of the distillation grows linearly from 0 at the first step to 1 after
    the share `ramp_up` of all steps.

    Defaults are those of the released code, which 5 of its 11 pairs of networks have on
    CIFAR-100, 20 of 240 epochs of warm-up included. It sets `beta` to 6 for VGG-13 and
    for WRN-40-2 with a WRN, to 2 for ResNet-56 and -110, and to 0.5 with
    `temperature=1` on ImageNet.
    Its warm-up has a value for each epoch, `min(epoch / 20, 1)` from 1 / 20 on.
    """
    return ConfigDict(
        {"alpha": 1.0, "beta": 8.0, "temperature": 4.0, "ramp_up": 20 / 240}
    )


def check(config: ConfigDict) -> None:
    """Raises a UserError for options that are out of range."""
    check_range(
        "method.dkd.",
        config,
        alpha=(0, float("inf"), "[)"),
        beta=(0, float("inf"), "[)"),
        temperature=(0, float("inf"), "()"),
        ramp_up=(0, 1, "[]"),
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, two classes, or an augmentation that mixes
        examples.
    """
    check(config)
    if context.num_classes <= 2:
        raise UserError(
            f"the data have {context.num_classes} classes, so dkd has no divergence "
            "among the other classes; use --config.method.name=kd"
        )
    if context.mixes_examples:
        raise UserError(
            "dkd tells the class of an example from the others, and mixup and cutmix "
            "mix two; set data.augment.mixup and data.augment.cutmix to 0"
        )
    alpha, beta, temperature = config.alpha, config.beta, config.temperature
    ramp_steps = max(1.0, config.ramp_up * context.total_steps)

    def loss(params, model_state, method_state, batch, step, key):
        labels = batch["label"]
        logits, model_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        taught = teacher_logits(context, batch)
        hard = cross_entropy(logits, labels)
        of_label = tckd(logits, labels, taught, temperature)
        of_others = nckd(logits, labels, taught, temperature)
        weight = jnp.clip(step / ramp_steps, max=1.0) if config.ramp_up else 1.0
        value, metrics = averaged(
            logits,
            labels,
            hard + weight * (alpha * of_label + beta * of_others),
            {
                "cross_entropy": hard,
                "tckd": of_label,
                "nckd": of_others,
                "loss_weights": 1 + weight * (alpha + beta),
                **describe_target(teacher_target(taught, temperature), labels),
            },
        )
        return value, (model_state, method_state, metrics)

    return Method(
        init_network(context),
        loss,
        predict_network,
        context.model,
        constants=teacher_constant,
    )
