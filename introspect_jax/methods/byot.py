"""BYOT: classifiers at earlier stages that learn from the last one."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.base import (
    Context,
    Method,
    averaged,
    by_name,
    forward,
    predict_named,
)
from introspect_jax.models import init_variables, make_classify_fn
from introspect_jax.models.classifier import batch_norm, conv
from introspect_jax.models.protocol import check_offers, stage_shapes
from introspect_jax.objectives.features import feature_distance
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    distillation,
)
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "classifiers at the earlier stages, which learn from the network's outputs"
COST = "1.03x FLOPs of standard"
SOURCE = (
    "Zhang et al., Be Your Own Teacher: Improve the Performance of Convolutional "
    "Neural Networks via Self Distillation, ICCV 2019 (arXiv 1905.08094)"
)


def default_config() -> ConfigDict:
    """`CE + sum_i ((1 - alpha) CE_i + alpha T^2 KL(p_T || p_i,T) + beta |f_i - f|^2)`.

    Each stage i but the last gets a classifier: a bottleneck of three convolutions that
    brings its maps to the channels and about the size of the last maps, their mean over
    space f_i, and a linear layer. Outputs p and features f of the network are constant
    in what the others learn from them. The network alone is evaluated and deployed.

    There are two programs: the authors' (ArchipLab-LinfengZhang/
    pytorch-self-distillation-final) has the cross entropy of the network in full, as
    here, and no T^2; luanyunteng/pytorch-be-your-own-teacher, where bottleneck and
    defaults come from, has T^2, as here, and takes (1 - alpha) of every cross entropy.
    There beta is 1e-6 for a sum over the 128 images of a batch, so that it is 128 times
    that for the mean over examples here. Both have a cross entropy for the divergence,
    which differs by a constant.
    """
    return ConfigDict({"alpha": 0.1, "temperature": 3.0, "beta": 128e-6})


class StageClassifier(nn.Module):
    """Maps `[batch, h, w, c]` of a stage to logits and features `[batch, channels]`.

    Attributes:
      num_classes: Number of outputs.
      channels: Those of the last maps.
      window: How many times the sides of the maps are those of the last.
    """

    num_classes: int
    channels: int
    window: int

    @nn.compact
    def __call__(self, maps: jax.Array, train: bool) -> tuple[jax.Array, jax.Array]:
        narrow, x = max(1, self.channels // 4), maps
        layers = [(narrow, 1), (narrow, self.window), (self.channels, 1)]
        for i, (channels, side) in enumerate(layers):
            x = conv(channels, side, side, maps.dtype, f"conv{i}", pad=False)(x)
            x = nn.relu(batch_norm(train, maps.dtype, f"norm{i}")(x))
        features = _mean(x)
        return nn.Dense(self.num_classes, dtype=None, name="last")(features), features


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: An option out of range, or a network that is not in stages.
    """
    check(config)
    check_offers(context.model, "classify", "method.name=byot")
    *shapes, last = stage_shapes(context.model, context.image_shape, "method.name=byot")
    classifiers = {
        f"classifier{i}": StageClassifier(
            context.num_classes, last[2], window(shape, last)
        )
        for i, shape in enumerate(shapes)
    }
    alpha, beta, temperature = config.alpha, config.beta, config.temperature

    def init(key):
        # The network has the values that it would have alone.
        made = {"network": init_variables(context.model, context.image_shape, key)}
        for i, (name, classifier) in enumerate(classifiers.items()):
            own = jax.random.fold_in(key, i)
            made[name] = init_variables(classifier, shapes[i], own)
        return by_name(made)

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels, state = batch["label"], dict(model_state)
        network = params["network"]
        maps, state["network"] = forward(
            context.model, network, state["network"], batch["image"], key, "stages"
        )
        variables = {"params": network, **model_state["network"]}
        logits = make_classify_fn(context.model, variables)(maps[-1])
        target = teacher_target(logits, temperature)
        features = jax.lax.stop_gradient(_mean(maps[-1]))
        terms = []
        for stage, (name, classifier) in zip(maps, classifiers.items(), strict=False):
            (theirs, own), state[name] = forward(
                classifier, params[name], state[name], stage, key
            )
            terms.append(
                {
                    "stage_cross_entropy": cross_entropy(theirs, labels),
                    "distillation": distillation(theirs, labels, target, temperature),
                    "feature_distance": feature_distance(own, features),
                }
            )
        # Sums over the classifiers.
        terms = jax.tree.map(lambda *values: sum(values), *terms)
        hard = cross_entropy(logits, labels)
        losses = (
            hard
            + (1 - alpha) * terms["stage_cross_entropy"]
            + alpha * terms["distillation"]
            + beta * terms["feature_distance"]
        )
        value, metrics = averaged(
            logits,
            labels,
            losses,
            {
                "cross_entropy": hard,
                "loss_weights": 1.0 + len(classifiers),  # but for beta, in other units
                **terms,
                **describe_target(target, labels),
            },
        )
        return value, (state, method_state, metrics)

    return Method(init, loss, predict_named("network"), context.model)


def window(shape: tuple[int, int, int], last: tuple[int, int, int]) -> int:
    """How many times the sides of maps `(h, w, d)` are those of the last, rounded."""
    return max(1, min(shape[0] // last[0], shape[1] // last[1]))


def _mean(maps: jax.Array) -> jax.Array:
    """Means over space `[batch, d]`, float32 or wider."""
    wide = jnp.promote_types(maps.dtype, jnp.float32)
    return jnp.mean(maps, axis=(1, 2), dtype=wide)


def check(config: ConfigDict) -> None:
    """Raises a UserError for options out of range."""
    check_range(
        "method.byot.",
        config,
        alpha=(0, 1, "[]"),
        temperature=(0, float("inf"), "()"),
        beta=(0, float("inf"), "[)"),
    )
