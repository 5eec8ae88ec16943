"""Soft targets of introspective learning: similarities, temperature, component."""

from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.methods.base import Batch, Context, Metrics
from introspect_jax.methods.introspective_options import (
    NETWORK,
    sources_of,
    wanted_entropy,
)
from introspect_jax.methods.introspective_sources import similarities
from introspect_jax.methods.terms import shuffle_keys
from introspect_jax.objectives.components import component, update_class_means
from introspect_jax.objectives.losses import entropy
from introspect_jax.objectives.targets import (
    SoftTarget,
    matched_temperature,
    similarity_target,
)

PyTree = Any


def running_means(config: ConfigDict, classes: int) -> dict[str, tuple[int, ...]]:
    """Shapes of the running means in the method state that the options require.

    They start at zeros. `temperature` is `[sum of w_i log T_i, sum of w_i]`, with the
    weights w of a running mean: linear in what is added, so that the parts of a batch
    can be averaged, and parts without examples leave the quotient as it is.
    """
    square = (classes, classes)
    matched = wanted_entropy(config) != ""
    entries = {
        "confusion": (square, "confusion" in sources_of(config)),
        "class_means": (square, config.component == "class_average"),
        "similarity_means": (square, config.remove_class_mean),
        "temperature": ((2,), matched and config.entropy_matching == "running"),
    }
    return {name: shape for name, (shape, kept) in entries.items() if kept}


def soft_target(
    config: ConfigDict,
    context: Context,
    variables: PyTree,
    method_state: PyTree,
    batch: Batch,
    logits: jax.Array,
    key: jax.Array,
) -> tuple[SoftTarget, Metrics, PyTree]:
    """Soft target, metrics of its temperature, and the method state.

    Without controls and `target_entropy`, this is `introspect`.

    Args:
      config: Config of the method `introspective`.
      context: Context passed to `make`.
      variables: Variables of the explained network.
      method_state: Method state with the running means.
      batch: Examples.
      logits: Logits of the trained network, `[batch, classes]`.
      key: Random key of the step.
    """

    def of(source: str, state: PyTree) -> tuple[jax.Array, PyTree]:
        return similarities(
            source, config, context, variables, state, batch, logits, key
        )

    labels, asked = batch["label"], wanted_entropy(config)
    scores, method_state = of(config.source, method_state)
    wanted: jax.Array | float | None = None
    if isinstance(asked, float):
        wanted = asked
    elif asked == NETWORK:
        wanted = _entropy_over_support(config, logits, labels, 1.0)
    elif asked:
        reference = scores
        if asked != config.source:
            reference, method_state = of(asked, method_state)
        wanted = _entropy_over_support(config, reference, labels, config.temperature)
    if config.remove_class_mean:
        scores, method_state = _without_class_mean(config, method_state, labels, scores)
    metrics: Metrics = {}
    temperature = config.temperature
    if wanted is not None:
        temperature, metrics, method_state = _matched(
            config, scores, labels, wanted, method_state
        )
    target = similarity_target(
        scores, labels, temperature=temperature, support=config.support
    )
    if config.stop_gradient:
        target = jax.lax.stop_gradient(target)
    return target, metrics, method_state


def target_component(
    config: ConfigDict,
    target: SoftTarget,
    method_state: PyTree,
    batch: Batch,
    key: jax.Array,
) -> tuple[SoftTarget, PyTree]:
    """Part of the target that is used, and the method state."""
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


def _entropy_over_support(
    config: ConfigDict, scores: jax.Array, labels: jax.Array, temperature: float
) -> jax.Array:
    """Entropy `[batch]` of `softmax(scores / temperature)` over the support."""
    target = similarity_target(
        scores, labels, temperature=temperature, support=config.support
    )
    return jax.lax.stop_gradient(entropy(target.probs))


def _matched(
    config: ConfigDict,
    scores: jax.Array,
    labels: jax.Array,
    wanted: float | jax.Array,
    method_state: PyTree,
) -> tuple[jax.Array, Metrics, PyTree]:
    """Temperature at which the target has the wanted entropy, its metrics, and the
    method state."""
    per = "example" if config.entropy_matching == "example" else "batch"
    temperature, reached = matched_temperature(
        scores, labels, wanted, support=config.support, per=per
    )
    if "temperature" in method_state:
        before = method_state["temperature"]
        some = jnp.any(labels != 0).astype(before.dtype)
        latest = jnp.stack([some * jnp.log(temperature).astype(some.dtype), some])
        after = config.class_decay * before + (1 - config.class_decay) * latest
        # That of the steps before, so that all parts of a batch have the same, and
        # what an example learns from does not depend on the rest of its batch.
        known = before[1] > 0
        mean = jnp.exp(before[0] / jnp.where(known, before[1], 1.0))
        temperature = jnp.where(known, mean, temperature)
        method_state = method_state | {"temperature": after}
    metrics: Metrics = {
        "temperature": temperature,
        "entropy_unreached": 1.0 - reached,
    }
    return temperature, metrics, method_state


def _without_class_mean(
    config: ConfigDict, method_state: PyTree, labels: jax.Array, similarities: jax.Array
) -> tuple[jax.Array, PyTree]:
    """Similarities minus the running mean of their class: the example-specific part."""
    means = update_class_means(
        method_state["similarity_means"],
        jax.lax.stop_gradient(similarities),
        labels,
        config.class_decay,
    )
    own = jnp.matmul(labels, means, precision=jax.lax.Precision.HIGHEST)
    return similarities - own, method_state | {"similarity_means": means}
