"""CS-KD: distillation from the outputs for another example of the class."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
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
from introspect_jax.methods.terms import mixed
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "distillation from the network's outputs for another example of the class"
COST = "1.34x FLOPs of standard"
SOURCE = (
    "Yun et al., Regularizing Class-wise Predictions via Self-knowledge Distillation, "
    "CVPR 2020 (arXiv 2003.13964)"
)


def default_config() -> ConfigDict:
    """`CE(x) + weight T^2 KL(p_T(x') || p_T(x))`, x' another example of x's class.

    A batch has a partner for each of its examples, as in the paper: the same examples
    in the same order as in other methods, and a forward pass more. Partners are a
    batch of their own and their batch statistics are not kept, so that the running
    statistics are updated once a step.

    Where labels are not known before they are read (a training split that streams, see
    data.device_megabytes) a partner is looked for in the batch itself. An example
    without another of its class is its own partner, whose outputs are its own but for
    the batch statistics, and is counted in the metric `degenerate`.
    """
    return ConfigDict({"weight": 1.0, "temperature": 4.0})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, no class with two examples, or an augmentation
        that mixes examples.
    """
    check_range(
        "method.cs_kd.",
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
    sampler = make_sampler(context)

    def loss(params, model_state, method_state, batch, step, key):
        del step
        images, labels = batch["image"], batch["label"]
        if sampler:
            # Every second example is the partner of the one before.
            images, labels = images[0::2], labels[0::2]
        logits, new_state = forward(context.model, params, model_state, images, key)
        if sampler:
            said, _ = forward(
                context.model,
                jax.lax.stop_gradient(params),
                model_state,
                batch["image"][1::2],
                jax.random.fold_in(key, 1),
            )
            alone = batch["index"][0::2] == batch["index"][1::2]
        else:
            partners = partners_in_batch(labels, key)
            said, alone = logits[partners], partners == jnp.arange(len(labels))
        target = teacher_target(said, temperature)
        target = dataclasses.replace(target, degenerate=alone)
        values = mixed(logits, labels, target, soft=weight, temperature=temperature)
        value, metrics = averaged(logits, labels, *values)
        return value, (new_state, method_state, metrics)

    init = init_network(context)
    return Method(init, loss, predict_network, context.model, sampler=sampler)


def partners_in_batch(label_probs: jax.Array, key: jax.Array) -> jax.Array:
    """Positions `[batch]` of another example of the class, drawn; its own without one.

    Args:
      label_probs: `[batch, classes]`.
      key: random key.
    """
    labels = jnp.argmax(label_probs, axis=-1)
    here = jnp.arange(len(labels))
    others = (labels[:, None] == labels[None]) & (here[:, None] != here[None])
    draws = jnp.where(others, jax.random.uniform(key, others.shape), -1.0)
    return jnp.where(jnp.any(others, axis=-1), jnp.argmax(draws, axis=-1), here)


def make_sampler(context: Context) -> Callable[[int], np.ndarray] | None:
    """step -> positions `[2 * batch]`: each example, then its partner.

    Side by side, so that devices which divide the batch have both. None where labels
    are not known.
    """
    if context.train_labels is None or context.order is None:
        return None
    labels, order = context.train_labels(), context.order
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
