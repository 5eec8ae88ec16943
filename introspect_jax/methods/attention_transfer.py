"""Attention transfer: look where a teacher looks."""

from typing import Any

import flax.linen as nn
import jax
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
from introspect_jax.methods.terms import mixed, teacher_constant
from introspect_jax.models import make_classify_fn
from introspect_jax.models.protocol import check_offers, stage_shapes
from introspect_jax.objectives.features import attention_distance, map_factors
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_range

SUMMARY = "the teacher's attention maps after each stage, as targets for the network's"
COST = "1.34x FLOPs of standard, with a teacher of its kind"
SOURCE = (
    "Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017 (arXiv "
    "1612.03928)"
)
TEACHER = "any network"
_NAME = "method.name=attention_transfer"


def default_config() -> ConfigDict:
    """`(1 - alpha) CE + alpha T^2 KL(teacher || p_T) + beta sum_j distance_j`.

    The sum goes over the stages j of the networks, `distance_j` is
    `objectives.features.attention_distance` of their maps: a mean over positions, as in
    the released code, whose README has beta = 1000; the paper halves beta and has a
    norm for the mean. Vectors of unit length differ the less at each position the more
    positions they have: on images of 8x8 pixels beta = 62.5 is what 1000 is on images
    of 32x32, for which it was chosen.

    With alpha = 0, as there, the teacher's outputs are not used, but the metrics of the
    soft target describe them all the same.

    Where maps differ in size, the attention maps are averaged to the smaller size, as
    the paper has them interpolated. Those of a Wide ResNet's last stage come after its
    final normalisation and ReLU, in the released code before.
    """
    return ConfigDict({"beta": 1000.0, "alpha": 0.0, "temperature": 4.0})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: An option out of range, networks that are not in stages, or whose
        stages cannot be compared.
    """
    check(config)
    check_offers(context.model, "classify", _NAME)
    own = stage_shapes(context.model, context.image_shape, _NAME)
    if context.teacher is not None:
        check_offers(context.teacher, "classify", f"{_NAME}, as a teacher,")
        _check_stages(
            own,
            stage_shapes(
                context.teacher, context.image_shape, f"{_NAME}, as a teacher,"
            ),
        )
    alpha, beta, temperature = config.alpha, config.beta, config.temperature

    def loss(params, model_state, method_state, batch, step, key):
        del step
        labels, images = batch["label"], batch["image"]
        maps, new_state = forward(
            context.model, params, model_state, images, key, "stages"
        )
        variables = {"params": params, **model_state}
        logits = make_classify_fn(context.model, variables)(maps[-1])
        teacher_maps, teacher_logits = _ask(
            context.teacher, batch["constants"]["teacher"], images
        )
        distance = sum(
            attention_distance(mine, theirs)
            for mine, theirs in zip(maps, teacher_maps, strict=True)
        )
        target = teacher_target(teacher_logits, temperature)
        weights = {"hard": 1 - alpha, "soft": alpha}
        losses, terms = mixed(
            logits, labels, target, **weights, temperature=temperature
        )
        losses = losses + beta * distance
        # `loss_weights` leaves out beta, which is in other units.
        terms["attention_distance"] = distance
        value, metrics = averaged(logits, labels, losses, terms)
        return value, (new_state, method_state, metrics)

    return Method(
        init_network(context),
        loss,
        predict_network,
        context.model,
        constants=teacher_constant,
    )


def _ask(
    teacher: nn.Module | None, variables: Any, images: jax.Array
) -> tuple[tuple[jax.Array, ...], jax.Array]:
    """The teacher's maps after each stage and its logits, without gradient."""
    assert teacher is not None  # of methods that say `TEACHER`
    maps: Any = teacher.apply(variables, images, train=False, method="stages")
    logits = make_classify_fn(teacher, variables)(maps[-1])
    return jax.lax.stop_gradient((maps, logits))


def _check_stages(
    own: list[tuple[int, int, int]], theirs: list[tuple[int, int, int]]
) -> None:
    """Raises a UserError for stages that cannot be compared."""
    if len(own) != len(theirs):
        raise UserError(
            f"attention_transfer compares stages: the network has {len(own)} and the "
            f"teacher {len(theirs)}; choose a teacher with as many"
        )
    for stage, (mine, other) in enumerate(zip(own, theirs, strict=True)):
        try:
            map_factors(mine[:2], other[:2])
        except ValueError as error:
            raise UserError(
                f"attention_transfer, stage {stage} of the network and its teacher: "
                f"{error}; choose another teacher"
            ) from error


def check(config: ConfigDict) -> None:
    """Raises a UserError for options out of range."""
    check_range(
        "method.attention_transfer.",
        config,
        beta=(0, float("inf"), "[)"),
        alpha=(0, 1, "[]"),
        temperature=(0, float("inf"), "()"),
    )
