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
    Context,
    Init,
    Method,
    averaged,
    check_choice,
    check_range,
    forward,
    init_network,
    labelled_means,
    permutation_constant,
    predict_network,
    shuffle_keys,
)
from introspect_jax.methods.introspective_controls import SOURCES
from introspect_jax.models import make_logits_fn
from introspect_jax.objectives.components import (
    COMPONENTS,
    PERMUTATIONS,
    component,
    confidence_weights,
    update_class_means,
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

SUMMARY = "distils the similarity of the network's own class explanations into it"
SOURCE = "idea of Gu, Wu and Tresp, ACCV 2020 (arXiv 2009.09140)"


def default_config() -> ConfigDict:
    """The options of `introspect` and `loss_fn`, the ramp-up, and the controls.

    `weight` grows linearly from 0 over the first `ramp_up` of all steps (at the least
    it is 0 at the first), since the explanations of an untrained network say nothing,
    and falls to 0 over the last `ramp_down`. With an `explained_decay` the network that
    is explained is an exponential average of the one in training; with
    `remove_class_mean` the running mean of its class is taken off each example's
    similarities, which leaves what is specific to it.
    Every `explain_every`-th example of a batch is explained and has a soft target; the
    others cost what they cost in standard training.
    The fields that choose the explanation and the similarity are those of
    `binding.default_config`. Samples and steps are far fewer than for a single
    explanation: each costs as much as a step of training does.

    `source` is what the similarities are of, `SOURCES`; `component` is what part of the
    target is used, `objectives.components.COMPONENTS`. With `permuted` the similarities
    are shuffled among the other classes, the control for class information.
    `confusion` takes the logarithms of its means for similarities; `entropy_matched`
    replaces label and target together by smoothed labels of the same entropy, compared
    at temperature 1 whatever `student_temperature`.
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
            "permutation": "fresh",  # of the components that shuffle
            "class_decay": 0.99,  # of running means of classes
        }
    )
    return config


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option that does not exist or is out of range.
    """
    check(config, context.num_classes)
    every = config.explain_every

    def loss(params, model_state, method_state, batch, step, key):
        all_labels = batch["label"]
        all_logits, new_state = forward(
            context.model, params, model_state, batch["image"]
        )
        logits, labels = all_logits[::every], all_labels[::every]
        batch = batch | {n: batch[n][::every] for n in ("image", "label", "index")}
        variables, method_state = _explained_network(
            config, params, model_state, method_state, step
        )
        target, method_state = _soft_target(
            config, context, variables, method_state, batch, logits, key
        )
        target, method_state = _component(config, target, method_state, batch, key)
        weight = _weight(config, context.total_steps, step)
        losses, metrics = _objective(config, logits, labels, target, weight)
        if every > 1:
            metrics = labelled_means(labels, metrics)  # of the explained examples
            losses = cross_entropy(all_logits, all_labels).at[::every].set(losses)
        value, means = averaged(all_logits, all_labels, losses, metrics)
        return value, (new_state, method_state, means)

    return Method(
        _init(config, context),
        loss,
        predict_network,
        context.model,
        constants=lambda: (
            controls.constants(config, context)
            | permutation_constant(context, config.component)
        ),
    )


def _init(config: ConfigDict, context: Context) -> Init:
    """`Method.init`, with the running means that the options need."""
    running = {
        "confusion": config.source == "confusion",
        "class_means": config.component == "class_average",
        "similarity_means": config.remove_class_mean,
    }

    def carried():
        square = jnp.zeros((context.num_classes, context.num_classes), jnp.float32)
        # A copy for each: a tree that holds a buffer twice cannot be donated.
        return {mean: square + 0 for mean, kept in running.items() if kept}

    def init(key):
        params, model_state, method_state = init_network(context, carried)(key)
        if config.explained_decay:
            average = jax.tree.map(jnp.copy, (params, model_state))
            method_state = method_state | {"average": average}
        return params, model_state, method_state

    return init


def _explained_network(config, params, model_state, method_state, step):
    """Variables of the network that is explained, and the method state.

    Explained under the statistics from before this step: nobody's batch mates are in
    them. The parameters are constants here, which spares the trace of second
    derivatives that the stopped target would throw away.
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
    """The soft target, of this network's explanations or of a control."""
    if config.source == "random_network":
        variables = batch["constants"]["random_network"]
    if not controls.is_introspection(config):
        return controls.soft_target(
            config, context, variables, method_state, batch, logits, key
        )
    bound = bind(config, context.model, variables, batch["image"])
    target = introspect(
        make_logits_fn(context.model, variables),
        batch["image"],
        batch["label"],
        bound.explanation,
        bound.similarity,
        temperature=config.temperature,
        support=config.support,
        stop_gradient=config.stop_gradient,
        key=key,
        **bound.options,
    )
    return target, method_state


def _component(config, target, method_state, batch, key):
    """The part of the target that is used."""
    if "class_means" in method_state:
        means = update_class_means(
            method_state["class_means"],
            jax.lax.stop_gradient(target.probs),
            batch["label"],
            config.class_decay,
        )
        method_state = method_state | {"class_means": means}
    part = component(
        target,
        batch["label"],
        config.component,
        keys=shuffle_keys(config.permutation, batch, jax.random.fold_in(key, 1)),
        class_means=method_state.get("class_means"),
    )
    return part, method_state


def _weight(config, total_steps, step):
    """The weight of the soft target at a step."""
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


def check(config: ConfigDict, num_classes: int) -> None:
    """Raises a UserError for options that cannot be with so many classes."""
    binding.check(config)
    check_choice(
        "introspective",
        config,
        support=SUPPORTS,
        source=SOURCES,
        component=COMPONENTS,
        permutation=PERMUTATIONS,
    )
    positive = (0, float("inf"), "()")
    check_range(
        "introspective",
        config,
        temperature=positive,
        student_temperature=positive,
        weight=(0, 1, "[]") if config.support == "all" else (0, float("inf"), "[)"),
        ramp_up=(0, 1, "[]"),
        ramp_down=(0, 1, "[]"),
        explained_decay=(0, 1, "[)"),
        class_decay=(0, 1, "[)"),
    )
    others = config.support == "others" or config.component in ("others", "uniform")
    if others and num_classes <= 2:
        raise UserError(
            f"the data have {num_classes} classes, so with support='others' there is "
            "nothing to distribute; use --config.method.introspective.support=all"
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
