"""Introspective learning: the network's own class similarity as its soft target."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.explain import baselines, norms
from introspect_jax.explain.attribution import METHODS
from introspect_jax.explain.paths import RULES
from introspect_jax.explain.similarity import SIMILARITIES
from introspect_jax.introspection import introspect
from introspect_jax.methods.base import (
    Context,
    Method,
    accuracy,
    forward,
    init_network,
    predict_network,
)
from introspect_jax.models import make_head, make_logits_fn, make_maps_head
from introspect_jax.objectives.losses import loss_fn
from introspect_jax.objectives.targets import SUPPORTS

SUMMARY = "distils the similarity of the network's own class explanations into it"
SOURCE = "idea of Gu, Wu and Tresp, ACCV 2020 (arXiv 2009.09140)"


def default_config() -> ConfigDict:
    """The options of `introspect` and `loss_fn`, and the ramp-up.

    `weight` grows linearly from 0 over the first `ramp_up` of all steps (at the least
    it is 0 at the first), since the explanations of an untrained network say nothing.
    Samples and steps are far fewer
    than for a single explanation: each costs as much as a step of training does.
    """
    return ConfigDict(
        {
            "explanation": "gradient",
            "num_samples": 8,  # smoothgrad and its kin, expected_gradients
            "noise_level": 0.15,  # of them: share of each image's range
            "num_steps": 16,  # integrated_gradients
            "rule": "gauss_legendre",  # of them
            "baseline": "zero",  # of them and gradient_x_input
            "chunk_size": 0,  # samples or steps at once; 0 is all
            "similarity": "projection",
            "norms": "exact",
            "center": False,
            "temperature": 0.5,
            "support": "others",
            "weight": 0.1,
            "student_temperature": 1.0,
            "ramp_up": 0.2,
            "stop_gradient": True,
        }
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option that does not exist or is out of range.
    """
    check(config, context.num_classes)
    options = {
        "similarity": config.similarity,
        "norms": config.norms,
        "temperature": config.temperature,
        "support": config.support,
        "stop_gradient": config.stop_gradient,
    }
    weight, student_temperature = config.weight, config.student_temperature
    ramp_steps = max(1.0, config.ramp_up * context.total_steps)

    def loss(params, model_state, method_state, batch, step, key):
        images, labels = batch["image"], batch["label"]
        logits, new_state = forward(context.model, params, model_state, images)
        # Explained under the statistics from before this step: nobody's batch mates
        # are in them. The parameters are constants here, which spares the trace of
        # second derivatives that the stopped target would throw away.
        explained = jax.lax.stop_gradient(params) if config.stop_gradient else params
        variables = {"params": explained, **model_state}
        target = introspect(
            make_logits_fn(context.model, variables),
            images,
            labels,
            **explanation_options(config, context.model, variables, images, key),
            **options,
        )
        current = weight * jnp.minimum(step / ramp_steps, 1.0)
        values, parts = loss_fn(
            logits,
            labels,
            target,
            weight=current,
            student_temperature=student_temperature,
        )
        metrics = {name: jnp.mean(part) for name, part in parts.items()}
        metrics |= {"accuracy": accuracy(logits, labels), "weight": current}
        return jnp.mean(values), (new_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model)


def explanation_options(
    config: ConfigDict,
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    key: jax.Array,
) -> dict[str, Any]:
    """What `explain_fn` and `class_similarity` take to explain as `config` says.

    Args:
      config: of this method.
      model: the network that is explained.
      variables: its parameters and statistics.
      images: the batch, which also serves as the baselines of expected gradients.
      key: for what is drawn.
    """
    name = config.explanation
    options: dict[str, Any] = {
        "method": name,
        "center": config.center,
        "key": key,
        "chunk_size": config.chunk_size or None,
    }
    if name in ("smoothgrad", "smoothgrad_squared", "vargrad"):
        options |= {
            "num_samples": config.num_samples,
            "noise_level": config.noise_level,
        }
    elif name == "integrated_gradients":
        options |= {"num_steps": config.num_steps, "rule": config.rule}
    elif name == "expected_gradients":
        options |= {"num_samples": config.num_samples, "baselines": images}
    if name in ("integrated_gradients", "gradient_x_input"):
        options["baseline"] = config.baseline
    if name == "grad_cam":
        options["head"] = make_maps_head(model, variables)
    elif config.norms == "last_layer":
        options["head"] = make_head(model, variables)
    return options


def check_explanation(config: ConfigDict) -> None:
    """Raises a UserError for an explanation or similarity that cannot be."""
    for name, options in (
        ("explanation", METHODS),
        ("rule", RULES),
        ("baseline", baselines.NAMES),
        ("similarity", SIMILARITIES),
    ):
        if config[name] not in options:
            raise UserError(
                unknown(f"method.introspective.{name}", config[name], options)
            )
    try:
        kind, _ = norms.parse(config.norms)
    except ValueError as error:
        raise UserError(f"method.introspective.norms: {error}") from error
    if config.explanation == "grad_cam" and kind == "last_layer":
        raise UserError(
            "method.introspective.norms=last_layer is for gradients of the input; "
            "grad_cam explains feature maps: use exact, probes:s or top:m"
        )
    for name, low in (("num_samples", 1), ("num_steps", 1), ("chunk_size", 0)):
        if config[name] < low:
            raise UserError(
                f"method.introspective.{name} must be at least {low}, got "
                f"{config[name]}"
            )


def check(config: ConfigDict, num_classes: int) -> None:
    check_explanation(config)
    if config.support not in SUPPORTS:
        raise UserError(
            unknown("method.introspective.support", config.support, SUPPORTS)
        )
    for name in ("temperature", "student_temperature"):
        if not config[name] > 0:
            raise UserError(
                f"method.introspective.{name} must be above 0, got {config[name]}"
            )
    if config.weight < 0 or (config.support == "all" and config.weight > 1):
        raise UserError(
            "method.introspective.weight must not be negative, and at most 1 with "
            f"support='all'; got {config.weight}"
        )
    if not 0 <= config.ramp_up <= 1:
        raise UserError(
            "method.introspective.ramp_up is a share of all steps, in [0, 1]; got "
            f"{config.ramp_up}"
        )
    if config.support == "others" and num_classes <= 2:
        raise UserError(
            f"the data have {num_classes} classes, so with support='others' there is "
            "nothing to distribute; use --config.method.introspective.support=all"
        )
