"""Introspective learning: the network's own class similarity as its soft target."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax import binding
from introspect_jax.binding import bind
from introspect_jax.errors import UserError
from introspect_jax.introspection import introspect
from introspect_jax.methods import introspective_controls as controls
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
from introspect_jax.methods.introspective_controls import SOURCES
from introspect_jax.methods.terms import permutation_constant
from introspect_jax.models import make_logits_fn
from introspect_jax.objectives.components import (
    COMPONENTS,
    PERMUTATIONS,
    confidence_weights,
)
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    entropy,
    loss_fn,
)
from introspect_jax.objectives.targets import (
    SUPPORTS,
    entropy_matched,
)
from introspect_jax.options import check_choice, check_range

PREFIX = "method.introspective."
SUMMARY = "distils the similarity of the network's own class explanations into it"
SOURCE = "idea of Gu, Wu and Tresp, ACCV 2020 (arXiv 2009.09140)"


def default_config() -> ConfigDict:
    """Options of `introspect` and `loss_fn`, the weight schedule, and the controls.

    Schedule: `weight` grows linearly from 0 over the first `ramp_up` of all steps,
    because the explanations of an untrained network carry no information; it is always
    0 at the first step. It falls to 0 over the last `ramp_down`.

    Explained network: with `explained_decay` above 0, an exponential moving average of
    the trained network is explained. Every `explain_every`-th example of a batch is
    explained and has a soft target; the other examples cost the same as in standard
    training.

    Similarities: `source` selects what the similarities are computed from, see
    `SOURCES`; `confusion` uses the logarithms of its running means. `remove_class_mean`
    subtracts the running mean of the example's class from its similarities and keeps
    the part specific to the example. The fields that choose explanation and similarity
    are those of `binding.default_config`. The default numbers of samples and steps are
    much smaller than for a single explanation, because each costs as much as a training
    step.

    Controls: `component` selects the part of the target that is used, see
    `objectives.components.COMPONENTS`. `permuted` shuffles the similarities among the
    other classes, which removes the class information. `entropy_matched` replaces both
    label and target by smoothed labels of the same entropy, compared at temperature 1
    regardless of `student_temperature`.
    """
    config = binding.default_config()
    config.update(
        {
            "temperature": 0.5,
            "support": "others",
            "weight": 0.1,
            "explain_every": 1,
            "student_temperature": 1.0,
            "ramp_up": 0.2,
            "ramp_down": 0.0,
            "explained_decay": 0.0,
            "remove_class_mean": False,
            "stop_gradient": True,
            "source": "explanations",
            "component": "full",
            "permutation": "fresh",  # for components that shuffle
            "class_decay": 0.99,  # decay of the running class means
        }
    )
    return config


def make(config: ConfigDict, context: Context) -> Method:
    """Builds the method.

    Raises:
      UserError: Unknown options or values out of range.
    """
    check(config)
    _check_classes(config, context.num_classes)
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
        target, method_state = _soft_target(
            config, context, variables, method_state, batch, logits, key
        )
        target, method_state = controls.target_component(
            config, target, method_state, batch, key
        )
        weight = _weight(config, context.total_steps, step)
        losses, metrics = _objective(config, logits, labels, target, weight)
        if every > 1:
            metrics = labelled_means(labels, metrics)  # explained examples only
            losses = cross_entropy(all_logits, all_labels).at[::every].set(losses)
        value, means = averaged(all_logits, all_labels, losses, metrics)
        return value, (new_state, method_state, means)

    return Method(
        _init(config, context),
        loss,
        predict_network,
        context.model,
        carries=dict.fromkeys(_carried(config), MEAN),
        constants=lambda teacher: (
            controls.constants(config, context)
            | permutation_constant(context, config.component)
        ),
    )


def _carried(config: ConfigDict) -> list[str]:
    """Entries of the method state: the running means that the options require, and the
    average that is explained."""
    entries = {
        "confusion": config.source == "confusion",
        "class_means": config.component == "class_average",
        "similarity_means": config.remove_class_mean,
        "average": config.explained_decay > 0,
    }
    return [entry for entry, kept in entries.items() if kept]


def _init(config: ConfigDict, context: Context) -> Init:
    """`Method.init`."""
    means = [entry for entry in _carried(config) if entry != "average"]

    def carried():
        square = jnp.zeros((context.num_classes, context.num_classes), jnp.float32)
        # Separate copies: a tree that holds a buffer twice cannot be donated.
        return dict.fromkeys(means, square + 0)

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


def _soft_target(config, context, variables, method_state, batch, logits, key):
    """Soft target from the network's explanations or from a control."""
    if config.source == "random_network":
        variables = batch["constants"]["random_network"]
    if not controls.is_introspection(config):
        return controls.soft_target(
            config, context, variables, method_state, batch, logits, key
        )

    def target_of(rows, common):
        variables, images, key = common
        bound = bind(config, context.model, variables, images)
        return introspect(
            make_logits_fn(context.model, variables),
            rows["image"],
            rows["label"],
            bound.explanation,
            bound.similarity,
            temperature=config.temperature,
            support=config.support,
            stop_gradient=config.stop_gradient,
            key=key,
            index=rows["number"],
            **bound.options,
        )

    rows = {name: batch[name] for name in ("image", "label")}
    rows["number"] = jnp.arange(len(batch["image"]))
    if bind(config, context.model, variables, batch["image"]).several:
        target_of = context.by_device(target_of)
    target = target_of(rows, (variables, batch["image"], key))
    return target, method_state


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
    elif config.source == "entropy_matched":
        rest = labels if target.support == "others" else labels * (1 - weight)
        mixed = (rest + weight * target.probs) / total
        target = entropy_matched(labels, labels.shape[-1], entropy(mixed))
        losses = total * cross_entropy(logits, target.probs)
        metrics |= describe_target(target, labels)
    return losses, metrics | {"weight": weight, "loss_weights": total}


def check(config: ConfigDict) -> None:
    """Raises a UserError for options that are invalid whatever the data."""
    binding.check(config, PREFIX)
    check_choice(
        PREFIX,
        config,
        support=SUPPORTS,
        source=SOURCES,
        component=COMPONENTS,
        permutation=PERMUTATIONS,
    )
    positive = (0, float("inf"), "()")
    check_range(
        PREFIX,
        config,
        temperature=positive,
        student_temperature=positive,
        weight=(0, 1, "[]") if config.support == "all" else (0, float("inf"), "[)"),
        ramp_up=(0, 1, "[]"),
        ramp_down=(0, 1, "[]"),
        explained_decay=(0, 1, "[)"),
        class_decay=(0, 1, "[)"),
    )
    if config.component == "ground_truth" and config.support == "others":
        raise UserError(
            "method.introspective.component=ground_truth needs a target that has mass "
            "on the label; use --config.method.introspective.support=all"
        )
    if config.explain_every < 1:
        raise UserError(
            "method.introspective.explain_every must be at least 1, got "
            f"{config.explain_every}"
        )
    if config.explained_decay and not config.stop_gradient:
        raise UserError(
            "method.introspective.stop_gradient=False has no meaning with an "
            "explained_decay: the average that is explained is a constant"
        )
    if config.source == "entropy_matched" and config.component != "full":
        raise UserError(
            "method.introspective.source=entropy_matched knows nothing of classes and "
            f"has no components; got component={config.component}"
        )


def _check_classes(config: ConfigDict, num_classes: int) -> None:
    """Raises a UserError for options that two classes do not have."""
    others = config.support == "others" or config.component in ("others", "uniform")
    if others and num_classes <= 2:
        raise UserError(
            f"the data have {num_classes} classes, so with support='others' there is "
            "nothing to distribute; use --config.method.introspective.support=all"
        )
