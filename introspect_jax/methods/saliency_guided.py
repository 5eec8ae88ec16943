"""Saliency-guided training: outputs that do not depend on unimportant pixels."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.arrays import wide
from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.methods.terms import mixed
from introspect_jax.models import make_logits_fn
from introspect_jax.models.protocol import Function
from introspect_jax.objectives.losses import cross_entropy, distillation
from introspect_jax.objectives.targets import whole_target
from introspect_jax.options import check_choice, check_range

SUMMARY = "cross entropy, and outputs kept where the least salient pixels are replaced"
COST = "2.66x FLOPs of standard"
SOURCE = (
    "Ismail, Corrada Bravo and Feizi, Improving Deep Learning Interpretability by "
    "Saliency Guided Training, NeurIPS 2021 (arXiv 2111.14338)"
)
ORDERS = ("magnitude", "signed")


def default_config() -> ConfigDict:
    """`weight` l of `CE(x) + l KL(p(x) || p(x'))`, and the masked image x':

    * `features_dropped`: the share of the pixels that is replaced, rounded down;
    * `order`: the least salient pixels have the gradients of least `"magnitude"`, as
      the abstract says ("small and potentially noisy"), or the least `"signed"` ones,
      negative ones first, as the released code does without its flag `--abs`.

    As in the released code: the saliency of a pixel is the mean over channels of the
    gradient of the label's log-probability, in evaluation mode; all channels of a pixel
    are replaced, each by a number drawn uniformly between the least and the largest
    value of the channel in this image; and the gradient of the divergence goes through
    both sides, but not through x'. Its examples replace half of the pixels, l is 1.

    Both images are seen in train mode, each batch with its own statistics. Those of the
    masked one are not kept, so that the running statistics are updated once a step. (In
    the released code they would be updated twice; its network has none.)
    """
    return ConfigDict({"weight": 1.0, "features_dropped": 0.5, "order": "magnitude"})


def check(config: ConfigDict) -> None:
    """Raises a UserError if an option is out of range."""
    check_range(
        "method.saliency_guided.",
        config,
        weight=(0, float("inf"), "[)"),
        features_dropped=(0, 1, "()"),
    )
    check_choice("method.saliency_guided.", config, order=ORDERS)


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range.
    """
    check(config)
    weight, share, order = config.weight, config.features_dropped, config.order
    model = context.model

    def loss(params, model_state, method_state, batch, step, key):
        del step
        images, labels = batch["image"], batch["label"]
        variables = jax.lax.stop_gradient({"params": params, **model_state})
        saliency = pixel_saliency(make_logits_fn(model, variables), images, labels)
        if order == "magnitude":
            saliency = jnp.abs(saliency)
        masked = replace_least(
            images, saliency, share, batch["index"], jax.random.fold_in(key, 1)
        )
        logits, new_state = forward(model, params, model_state, images, key)
        again, _ = forward(
            model, params, model_state, masked, jax.random.fold_in(key, 2)
        )
        target = whole_target(jax.nn.softmax(wide(logits)))
        distance = distillation(again, labels, target)
        values = mixed(logits, labels, target, soft=weight, distance=distance)
        value, metrics = averaged(logits, labels, *values)
        return value, (new_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)


def pixel_saliency(
    logits_fn: Function, images: jax.Array, labels: jax.Array
) -> jax.Array:
    """Mean over channels of the gradient of the label's log-probability, `[b, h, w]`.

    Args:
      logits_fn: Function `images -> logits [b, classes]`, of each image alone.
      images: `[b, h, w, c]`.
      labels: Probabilities `[b, classes]`.
    """

    def log_prob(images: jax.Array) -> jax.Array:
        return -jnp.sum(cross_entropy(logits_fn(images), labels))

    return jnp.mean(jax.grad(log_prob)(images), axis=-1)


def replace_least(
    images: jax.Array,
    saliency: jax.Array,
    share: float,
    index: jax.Array,
    key: jax.Array,
) -> jax.Array:
    """Images `[b, h, w, c]` with random values in place of their least salient pixels;
    without gradient.

    Args:
      images: `[b, h, w, c]`.
      saliency: `[b, h, w]`; of equal pixels the first are replaced.
      share: Of the pixels, in (0, 1); at least one is replaced.
      index: `[b]`, identifies the examples.
      key: Random key.
    """
    images = jax.lax.stop_gradient(images)
    rows = jax.lax.stop_gradient(saliency).reshape(len(images), -1)
    # Ranks, because a threshold would also take all pixels that are equal to it.
    ranks = jnp.argsort(jnp.argsort(rows, axis=-1), axis=-1)
    least = ranks < max(1, int(share * rows.shape[1]))
    low = jnp.min(images, axis=(1, 2), keepdims=True)
    high = jnp.max(images, axis=(1, 2), keepdims=True)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    draw = jax.vmap(lambda k: jax.random.uniform(k, images.shape[1:], images.dtype))
    values = low + (high - low) * draw(keys)
    return jnp.where(least.reshape(*images.shape[:3], 1), values, images)
