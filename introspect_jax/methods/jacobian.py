"""Jacobian regularisation: a penalty on the Jacobian of the logits."""

import jax
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
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    squared_jacobian,
)
from introspect_jax.objectives.targets import label_target
from introspect_jax.options import check_range

SUMMARY = "cross entropy plus the squared Jacobian of the logits, by random projections"
COST = "2.01x FLOPs of standard"
SOURCE = (
    "Hoffman, Roberts and Yaida, Robust Learning with Jacobian Regularization, 2019 "
    "(arXiv 1908.02729)"
)
ALL_CLASSES = -1


def default_config() -> ConfigDict:
    """`weight` l of `CE + l / 2 |J|^2`, J = dz/dx, and:

    * `projections`: random unit vectors of each example and step, from which `|J|^2` is
      estimated without bias; -1 takes all classes instead, with random signs. That is
      exact where examples are independent; where batch statistics connect them, it is
      an estimate as well, without bias. All are pulled back at once, which takes the
      memory of as many backward passes.

    x is the normalised image, and the pass is the one of the cross entropy, in train
    mode (`objectives.losses.squared_jacobian` says what batch statistics add). Defaults
    are those of the paper and of the released code's README; its example has l = 0.1.
    """
    return ConfigDict({"weight": 0.01, "projections": 1})


def check(config: ConfigDict) -> None:
    """Raises a UserError if an option is out of range."""
    check_range("method.jacobian.", config, weight=(0, float("inf"), "[)"))
    if config.projections < 1 and config.projections != ALL_CLASSES:
        raise UserError(
            "method.jacobian.projections must be at least 1, or -1 for all classes, "
            f"got {config.projections}"
        )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, or as many projections as classes.
    """
    check(config)
    weight, count = config.weight, config.projections
    if count >= context.num_classes:
        raise UserError(
            f"method.jacobian.projections is {count}, and the data have "
            f"{context.num_classes} classes: -1 takes these, at the cost of as many"
        )

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels = batch["label"]
        logits, pull, model_state = jax.vjp(
            lambda images: forward(context.model, params, model_state, images, key),
            batch["image"],
            has_aux=True,
        )
        vectors = directions(count, logits.shape, batch["index"], key)
        norm = squared_jacobian(
            lambda v: pull(v)[0], vectors.astype(logits.dtype), labels
        )
        hard = cross_entropy(logits, labels)
        value, metrics = averaged(
            logits,
            labels,
            hard + weight / 2 * norm,
            {
                "cross_entropy": hard,
                "squared_jacobian": norm,
                "loss_weights": 1.0 + weight / 2,
                **describe_target(label_target(labels, context.num_classes), labels),
            },
        )
        return value, (model_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)


def directions(
    count: int, shape: tuple[int, ...], index: jax.Array, key: jax.Array
) -> jax.Array:
    """Unit vectors `[count, batch, classes]`, uniform on the sphere, drawn for each
    example; for `ALL_CLASSES`, the rows of the identity with random signs.

    Without the signs the derivative of a sum over the batch would be left where batch
    statistics connect the examples: almost nothing behind a batch normalisation.

    Args:
      count: Number of vectors of an example.
      shape: `(batch, classes)`.
      index: `[batch]`, identifies the examples.
      key: Random key.
    """
    _, classes = shape
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, index)
    if count == ALL_CLASSES:
        draw = jax.vmap(lambda k: jax.random.rademacher(k, (classes,)), out_axes=1)
        return jnp.eye(classes)[:, None] * draw(keys)[..., None]
    normal = jax.vmap(lambda k: jax.random.normal(k, (count, classes)), out_axes=1)
    vectors = normal(keys)
    return vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
