"""Deep Mutual Learning: several networks that learn from each other."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    by_name,
    forward,
    predict_named,
)
from introspect_jax.models import init_variables
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    mutual_divergence,
)
from introspect_jax.objectives.targets import whole_target
from introspect_jax.options import check_range

SUMMARY = "peers that are trained together and learn from each other's outputs"
COST = "2.00x FLOPs of standard, with two networks"
SOURCE = "Zhang et al., Deep Mutual Learning, CVPR 2018 (arXiv 1706.00384)"


def default_config() -> ConfigDict:
    """`CE_i + weight / (M - 1) sum_{j != i} T^2 KL(p_j || p_i)` for each of `peers` M.

    The first peer is evaluated and deployed. All are of one kind, see the same images,
    and take their steps at once, as most code does; the paper's take turns. The logged
    loss is the sum over peers, and `optimizer.clip_norm` clips the gradient of all.
    """
    return ConfigDict({"peers": 2, "weight": 1.0, "temperature": 1.0})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: fewer than two peers, or an option out of range.
    """
    if config.peers < 2:
        raise UserError(
            f"method.dml.peers must be at least 2, got {config.peers}; a single "
            "network is --config.method.name=standard"
        )
    check_range(
        "method.dml.",
        config,
        peers=(2, 100, "[]"),  # each is a network more in the program
        weight=(0, float("inf"), "[)"),
        temperature=(0, float("inf"), "()"),
    )
    names = [f"peer{i}" for i in range(config.peers)]
    weight, temperature = config.weight, config.temperature

    def init(key):
        # The first has the values that it would have alone.
        keys = [key, *(jax.random.fold_in(key, i) for i in range(1, len(names)))]
        made = {
            name: init_variables(context.model, context.image_shape, k)
            for name, k in zip(names, keys, strict=True)
        }
        return by_name(made)

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels = batch["label"]
        # One after the other: a vmap over parameters would make grouped convolutions,
        # which are slow.
        ran = {
            name: forward(
                context.model,
                params[name],
                model_state[name],
                batch["image"],
                jax.random.fold_in(key, i),
            )
            for i, name in enumerate(names)
        }
        logits = jnp.stack([ran[name][0] for name in names])
        hard = jnp.stack([cross_entropy(z, labels) for z in logits])
        mutual = mutual_divergence(logits, temperature, labels)
        # What the first learns from, on average; a divergence is taken from each.
        others = whole_target(jax.nn.softmax(logits[1:] / temperature).mean(0))
        value, metrics = averaged(
            logits[0],
            labels,
            # A sum over peers: each gets the gradient of its own loss.
            jnp.sum(hard + weight * mutual, axis=0),
            {
                "cross_entropy": hard[0],
                "distillation": mutual[0],
                "loss_weights": 1.0 + weight,  # of each peer
                **describe_target(others, labels),
            },
        )
        model_state = {name: ran[name][1] for name in names}
        return value, (model_state, method_state, metrics)

    return Method(init, loss, predict_named(names[0]), context.model)
