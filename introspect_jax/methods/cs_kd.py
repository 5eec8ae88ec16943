"""CS-KD: what the network says of another example of the class."""

import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    check_range,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    distillation,
)
from introspect_jax.objectives.targets import teacher_target

SUMMARY = "distillation from the network's outputs for another example of the class"
SOURCE = (
    "Yun et al., Regularizing Class-wise Predictions via Self-knowledge Distillation, "
    "CVPR 2020 (arXiv 2003.13964)"
)


def default_config() -> ConfigDict:
    """`CE(x) + weight T^2 KL(p_T(x') || p_T(x))`, x' another example of x's class.

    A batch has a partner for each of its examples, as in the paper: the same examples
    in the same order as in other methods, and a forward pass more. Partners are a
    batch of their own and their batch statistics are not kept, so that the running
    statistics are updated once a step. An example that is the only one of its class is
    its own partner: its second term is 0.
    """
    return ConfigDict({"weight": 1.0, "temperature": 4.0})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, labels that cannot be known before, no class
        with two examples, or an augmentation that mixes examples.
    """
    check_range(
        "cs_kd",
        config,
        weight=(0, float("inf"), "[)"),
        temperature=(0, float("inf"), "()"),
    )
    if context.mixes_examples:
        raise UserError(
            "cs_kd pairs examples of a class, which mixup and cutmix mix; set "
            "data.augment.mixup and data.augment.cutmix to 0"
        )
    weight, temperature = config.weight, config.temperature

    def loss(params, model_state, method_state, batch, step, key):
        del step, key
        # Every second example is the partner of the one before, see `make_sampler`.
        images, labels = batch["image"][0::2], batch["label"][0::2]
        logits, new_state = forward(context.model, params, model_state, images)
        constant = jax.lax.stop_gradient(params)
        partners, _ = forward(
            context.model, constant, model_state, batch["image"][1::2]
        )
        target = teacher_target(partners, temperature)
        hard = cross_entropy(logits, labels)
        soft = distillation(logits, labels, target, temperature)
        value, metrics = averaged(
            logits,
            labels,
            hard + weight * soft,
            {
                "cross_entropy": hard,
                "distillation": soft,
                "loss_weights": 1.0 + weight,
                **describe_target(target, labels),
            },
        )
        return value, (new_state, method_state, metrics)

    return Method(
        init_network(context),
        loss,
        predict_network,
        context.model,
        sampler=make_sampler(context),
    )


def make_sampler(context: Context):
    """step -> positions `[2 * batch]`: each example, then its partner.

    Side by side, so that devices which divide the batch have both.
    """
    if context.train_labels is None or context.order is None:
        raise UserError(
            "cs_kd pairs examples of a class and has to know all labels before: the "
            "training split must fit into data.device_megabytes"
        )
    labels, order = context.train_labels, context.order
    counts = np.bincount(labels)
    if counts.max() < 2:
        raise UserError(
            "cs_kd pairs examples of a class, and no class has two training examples"
        )
    by_class = np.argsort(labels, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]])  # of each class in by_class
    place = np.empty_like(by_class)
    place[by_class] = np.arange(len(labels))

    def sampler(step: int) -> np.ndarray:
        chosen = order(step)
        of_class = labels[chosen]
        start, count = first[of_class], counts[of_class]
        draws = np.random.RandomState([context.seed, step]).random_sample(len(chosen))
        # 1 to count - 1 places further, around: never itself unless it is alone.
        further = 1 + np.floor(draws * (count - 1)).astype(int)
        partners = by_class[start + (place[chosen] - start + further) % count]
        return np.stack([chosen, partners], axis=1).ravel()

    return sampler
