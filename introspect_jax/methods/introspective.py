"""Introspective learning: the network's own class similarity as its soft target."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.average import running_average
from introspect_jax.methods.base import (
    MEAN,
    Context,
    Init,
    Method,
    averaged,
    forward,
    init_network,
    labelled_means,
    predict_network,
)
from introspect_jax.methods.introspective_options import (
    check,
    check_context,
    default_config,
    sources_of,
)
from introspect_jax.methods.introspective_sources import (
    SMOOTHED_LABELS,
    SOURCES,
    random_network,
)
from introspect_jax.methods.introspective_targets import (
    running_means,
    soft_target,
    target_component,
)
from introspect_jax.methods.terms import permutation_constant
from introspect_jax.objectives.components import confidence_weights
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    entropy,
    loss_fn,
)
from introspect_jax.objectives.targets import smooth_to_entropy

__all__ = ["SOURCE", "SOURCES", "SUMMARY", "check", "default_config", "make"]

SUMMARY = "distils the similarity of the network's own class explanations into it"
COST = "2.00x FLOPs of standard (gradient), 1.33x (Grad-CAM)"
SOURCE = "idea of Gu, Wu and Tresp, ACCV 2020 (arXiv 2009.09140)"


def make(config: ConfigDict, context: Context) -> Method:
    """Builds the method.

    Raises:
      UserError: Unknown options or values out of range.
    """
    check(config)
    check_context(config, context)
    every = config.explain_every

    def loss(params, model_state, method_state, batch, step, key):
        all_labels = batch["label"]
        all_logits, new_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        logits, labels = all_logits[::every], all_labels[::every]
        batch = batch | {n: batch[n][::every] for n in ("image", "label", "index")}
        variables, method_state = _explained_network(
            config, params, model_state, method_state, step
        )
        target, temperature, method_state = soft_target(
            config, context, variables, method_state, batch, logits, key
        )
        target, method_state = target_component(
            config, target, method_state, batch, key
        )
        weight = _weight(config, context.total_steps, step)
        losses, metrics = _objective(config, logits, labels, target, weight)
        metrics |= temperature
        if every > 1:
            metrics = labelled_means(labels, metrics)  # explained examples only
            losses = cross_entropy(all_logits, all_labels).at[::every].set(losses)
        value, means = averaged(all_logits, all_labels, losses, metrics)
        return value, (new_state, method_state, means)

    carried = [*running_means(config, context.num_classes)]
    carried += ["average"] if config.explained_decay else []
    random = "random_network" in sources_of(config)
    return Method(
        _init(config, context),
        loss,
        predict_network,
        context.model,
        carries=dict.fromkeys(carried, MEAN),
        constants=lambda teacher: (
            (random_network(context) if random else {})
            | permutation_constant(context, config.component)
        ),
    )


def _init(config: ConfigDict, context: Context) -> Init:
    """`Method.init`."""
    shapes = running_means(config, context.num_classes)

    def carried():
        # Separate arrays: a tree that holds a buffer twice cannot be donated.
        return {name: jnp.zeros(shape, jnp.float32) for name, shape in shapes.items()}

    def init(key):
        params, model_state, method_state = init_network(context, carried)(key)
        if config.explained_decay:
            average = jax.tree.map(jnp.copy, (params, model_state))
            method_state = method_state | {"average": average}
        return params, model_state, method_state

    return init


def _explained_network(config, params, model_state, method_state, step):
    """Variables of the explained network, and the method state.

    The network is explained with the batch statistics from before this step, so the
    result for an example does not depend on the rest of its batch. With `stop_gradient`
    the parameters are constants, which avoids tracing second derivatives that would be
    discarded.
    """
    if config.explained_decay:
        now = (jax.lax.stop_gradient(params), model_state)
        average = running_average(
            method_state["average"], now, config.explained_decay, step
        )
        variables = {"params": average[0], **average[1]}
        return variables, method_state | {"average": average}
    explained = jax.lax.stop_gradient(params) if config.stop_gradient else params
    return {"params": explained, **model_state}, method_state


def _weight(config, total_steps, step):
    """Weight of the soft target at a step."""
    ramp_steps = max(1.0, config.ramp_up * total_steps)
    down_steps = max(1.0, config.ramp_down * total_steps)
    weight = config.weight * jnp.clip(step / ramp_steps, max=1.0)
    if config.ramp_down:
        weight = weight * jnp.clip((total_steps - step) / down_steps, max=1.0)
    return weight


def _objective(config, logits, labels, target, weight):
    """Losses `[batch]` and metrics."""
    losses, metrics = loss_fn(
        logits,
        labels,
        target,
        weight=weight,
        student_temperature=config.student_temperature,
    )
    total = 1.0 + weight if target.support == "others" else 1.0
    if config.component == "cwtm":
        hard = metrics["cross_entropy"]
        soft = confidence_weights(target.probs, labels) * hard
        losses = (total - weight) * hard + weight * soft
        metrics |= {"distillation": soft}
    elif config.source == SMOOTHED_LABELS:
        rest = labels if target.support == "others" else labels * (1 - weight)
        mixed = (rest + weight * target.probs) / total
        target = smooth_to_entropy(labels, labels.shape[-1], entropy(mixed))
        losses = total * cross_entropy(logits, target.probs)
        metrics |= describe_target(target, labels)
    return losses, metrics | {"weight": weight, "loss_weights": total}
