"""Introspective learning: the network's own class similarity as its soft target."""

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods import similarity_sources
from introspect_jax.methods.average import running_average
from introspect_jax.methods.base import (
    Context,
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
from introspect_jax.methods.explaining import check_explanation
from introspect_jax.methods.similarity_sources import SOURCES, make_similarities
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
    similarity_target,
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
    Samples and steps are far fewer than for a single explanation: each costs as much as
    a step of training does.

    `source` is what the similarities are of, `SOURCES`; `component` is what part of the
    target is used, `objectives.components.COMPONENTS`. With `permuted` the similarities
    are shuffled among the other classes, the control for class information.
    `confusion` takes the logarithms of its means for similarities; `entropy_matched`
    replaces label and target together by smoothed labels of the same entropy, compared
    at temperature 1 whatever `student_temperature`.
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


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option that does not exist or is out of range.
    """
    check(config, context.num_classes)
    source, name = config.source, config.component
    final, student_temperature = config.weight, config.student_temperature
    every = config.explain_every
    ramp_steps = max(1.0, config.ramp_up * context.total_steps)
    down_steps = max(1.0, config.ramp_down * context.total_steps)

    def carried():
        square = jnp.zeros((context.num_classes, context.num_classes), jnp.float32)
        running = {
            "confusion": source == "confusion",
            "class_means": name == "class_average",
            "similarity_means": config.remove_class_mean,
        }
        # A copy for each: a tree that holds a buffer twice cannot be donated.
        return {mean: square + 0 for mean, kept in running.items() if kept}

    def init(key):
        params, model_state, method_state = init_network(context, carried)(key)
        if config.explained_decay:
            average = jax.tree.map(jnp.copy, (params, model_state))
            method_state = method_state | {"average": average}
        return params, model_state, method_state

    def constants():
        given = similarity_sources.constants(config, context)
        return given | permutation_constant(context, name)

    similarities = make_similarities(config, context)

    def soft_target(found, method_state, batch, key):
        """The component of the target, and the method state after it."""
        labels = batch["label"]
        if config.remove_class_mean:
            means = update_class_means(
                method_state["similarity_means"],
                jax.lax.stop_gradient(found),
                labels,
                config.class_decay,
            )
            method_state = method_state | {"similarity_means": means}
            highest = jax.lax.Precision.HIGHEST
            found = found - jnp.matmul(labels, means, precision=highest)
        target = similarity_target(
            found, labels, temperature=config.temperature, support=config.support
        )
        if config.stop_gradient:
            target = jax.lax.stop_gradient(target)
        if "class_means" in method_state:
            means = update_class_means(
                method_state["class_means"],
                jax.lax.stop_gradient(target.probs),
                labels,
                config.class_decay,
            )
            method_state = method_state | {"class_means": means}
        part = component(
            target,
            labels,
            name,
            keys=shuffle_keys(config.permutation, batch, jax.random.fold_in(key, 1)),
            class_means=method_state.get("class_means"),
        )
        return part, method_state

    def loss(params, model_state, method_state, batch, step, key):
        all_labels = batch["label"]
        all_logits, new_state = forward(
            context.model, params, model_state, batch["image"]
        )
        logits, labels = all_logits[::every], all_labels[::every]
        batch = batch | {n: batch[n][::every] for n in ("image", "label", "index")}
        # Explained under the statistics from before this step: nobody's batch mates
        # are in them. The parameters are constants here, which spares the trace of
        # second derivatives that the stopped target would throw away.
        explained = jax.lax.stop_gradient(params) if config.stop_gradient else params
        variables = {"params": explained, **model_state}
        if config.explained_decay:
            now = (jax.lax.stop_gradient(params), model_state)
            average = running_average(
                method_state["average"], now, config.explained_decay, step
            )
            method_state = method_state | {"average": average}
            variables = {"params": average[0], **average[1]}
        found, method_state = similarities(variables, method_state, batch, logits, key)
        target, method_state = soft_target(found, method_state, batch, key)
        left = context.total_steps - step
        weight = final * jnp.clip(step / ramp_steps, max=1.0)
        if config.ramp_down:
            weight = weight * jnp.clip(left / down_steps, max=1.0)
        losses, metrics = loss_fn(
            logits,
            labels,
            target,
            weight=weight,
            student_temperature=student_temperature,
        )
        total = 1.0 + weight if target.support == "others" else 1.0
        if name == "cwtm":
            hard = metrics["cross_entropy"]
            soft = confidence_weights(target.probs, labels) * hard
            losses = (total - weight) * hard + weight * soft
            metrics |= {"distillation": soft}
        elif source == "entropy_matched":
            rest = labels if target.support == "others" else labels * (1 - weight)
            mixed = (rest + weight * target.probs) / total
            target = entropy_matched(labels, context.num_classes, entropy(mixed))
            losses = total * cross_entropy(logits, target.probs)
            metrics |= describe_target(target, labels)
        shares = {"weight": weight, "loss_weights": total}
        if every > 1:
            metrics = labelled_means(labels, metrics)  # of the explained examples
            losses = cross_entropy(all_logits, all_labels).at[::every].set(losses)
        value, means = averaged(all_logits, all_labels, losses, metrics | shares)
        return value, (new_state, method_state, means)

    return Method(
        init,
        loss,
        predict_network,
        context.model,
        constants=constants,
    )


def check(config: ConfigDict, num_classes: int) -> None:
    """Raises a UserError for options that cannot be with so many classes."""
    check_explanation(config)
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
