"""Which part of a soft target does the work? Its parts, one at a time.

After the analyses of Gu, Wu and Tresp (ACCV 2020), of Furlanello et al. (Born-Again
Neural Networks, ICML 2018) and of Zhao et al. (Decoupled Knowledge Distillation, CVPR
2022). They are the same for the probabilities of a teacher and for a network's own
introspection.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Key, Real, UInt32

from introspect_jax.arrays import Labels, wide
from introspect_jax.errors import unknown
from introspect_jax.objectives._checks import (
    checked_temperature,
    common_dtype,
    matrix,
)
from introspect_jax.objectives._labels import ReadLabels, check_others, read_labels
from introspect_jax.objectives._permutation import (
    PERMUTATIONS,
    permutation_keys,
    permute,
)
from introspect_jax.objectives._soft_target import SoftTarget, read_target
from introspect_jax.objectives._statistics import (
    EXACT,
    confidence_weights,
    update_class_means,
)
from introspect_jax.objectives.losses import cross_entropy, distillation
from introspect_jax.objectives.targets import uniform_others

__all__ = [
    "COMPONENTS",
    "PERMUTATIONS",
    "SHUFFLED",
    "component",
    "component_loss",
    "confidence_weights",
    "permutation_keys",
    "permute",
    "update_class_means",
]

COMPONENTS = {
    "full": "all of it",
    "ground_truth": "the response of the true class; the rest uniform",
    "others": "the responses of the other classes, among themselves",
    "uniform": "the other classes, made uniform",
    "permuted": "the other classes, shuffled: entropy kept, class similarity not",
    "class_average": "the mean over the examples of the class: no instance",
    "dkpp": "all but the largest, shuffled (Dark Knowledge with Permuted Predictions)",
    "cwtm": "the largest, as a weight of the example (Confidence Weighted by Teacher "
    "Max)",
}
SHUFFLED = ("permuted", "dkpp")


def component(
    target: SoftTarget,
    labels: Labels,
    name: str,
    *,
    keys: Key[Array, " batch"] | UInt32[Array, "batch words"] | None = None,
    class_means: Real[ArrayLike, "classes classes"] | None = None,
) -> SoftTarget:
    """A part of a soft target, as a soft target `[batch, classes]`.

    With q the target and y the label, K classes:

    * `full`, and `cwtm`, which is a weight (`confidence_weights`): q;
    * `ground_truth`: `q_y` stays, the others get `(1 - q_y) / (K - 1)` each;
    * `others`: `q_k / (1 - q_y)`, compared on the others only (NCKD);
    * `uniform`: `1 / (K - 1)`, compared on the others only;
    * `permuted`: `q_y` stays, the others are shuffled: the same multiset;
    * `class_average`: row y of `class_means`, on the support of the target;
    * `dkpp`: `max_k q_k` stays where it is, all others are shuffled.

    Args:
      target: q.
      labels: ints `[batch]` or probabilities `[batch, classes]`; of labels mixed from
        two examples both classes are true ones (`targets.other_classes`). The row of an
        ignored example is zero, and degenerate.
      name: one of `COMPONENTS`.
      keys: `[batch]` of `permutation_keys`, for the components that shuffle.
      class_means: `[classes, classes]`, rows sum to 1, for `class_average`.

    Raises:
      ValueError: an unknown name, missing keys or means, shapes that differ,
        `ground_truth` of a target without mass on the label (support `"others"`),
        `others` and `uniform` of two classes, or labels that are refused by
        `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import component
      >>> from introspect_jax.objectives.targets import whole_target
      >>> target = whole_target(jnp.array([[0.6, 0.3, 0.1]]))
      >>> component(target, jnp.array([0]), "others").probs.round(2).tolist()
      [[0.0, 0.75, 0.25]]
    """
    if name not in COMPONENTS:
        raise ValueError(unknown("component", name, COMPONENTS))
    batch, classes = matrix("target.probs", target.probs, (None, None)).shape
    target = read_target(target, batch, classes)
    read = read_labels(labels, classes, batch)
    if name == "uniform":
        return uniform_others(labels, classes)
    if name in SHUFFLED:
        if keys is None:
            raise ValueError(f"the component {name!r} needs keys [batch]")
        target = _shuffled(target, read, name, keys)
    elif name == "class_average":
        if class_means is None:
            raise ValueError("the component 'class_average' needs class_means")
        target = _class_average(target, read, class_means)
    elif name == "others":
        check_others(classes)
        target = _among_others(target, read)
    elif name == "ground_truth":
        target = _ground_truth(target, read)
    return SoftTarget(
        read.guard(target.probs), target.degenerate | ~read.labelled, target.support
    )


def _shuffled(
    target: SoftTarget,
    read: ReadLabels,
    name: str,
    keys: Key[Array, " batch"] | UInt32[Array, "batch words"],
) -> SoftTarget:
    """`permuted` or `dkpp`."""
    movable = read.others()
    if name == "dkpp":
        classes = target.probs.shape[1]
        largest = jax.nn.one_hot(
            jnp.argmax(target.probs, axis=-1), classes, dtype=jnp.bool_
        )
        movable = ~largest & (movable | (target.support == "all"))
    return dataclasses.replace(target, probs=permute(target.probs, movable, keys))


def _class_average(
    target: SoftTarget,
    read: ReadLabels,
    class_means: Real[ArrayLike, "classes classes"],
) -> SoftTarget:
    classes = target.probs.shape[1]
    means = wide(matrix("class_means", class_means, (classes, classes)))
    dtype = common_dtype(read.probs, means)
    # Soft labels mix rows, each of which has mass on the other's class.
    probs = jnp.matmul(read.probs.astype(dtype), means.astype(dtype), precision=EXACT)
    target = dataclasses.replace(target, probs=probs)
    if target.support == "all":
        return target
    check_others(classes)
    return _among_others(target, read)


def _among_others(target: SoftTarget, read: ReadLabels) -> SoftTarget:
    """The target restricted to the other classes; uniform if it has no mass there."""
    others = read.others()
    rest = jnp.where(others, target.probs, 0.0)
    mass = jnp.sum(rest, axis=-1, keepdims=True)
    some = mass > 0
    even = _even(others, rest.dtype)
    probs = jnp.where(some, rest / jnp.where(some, mass, 1.0), even)
    return SoftTarget(probs, target.degenerate | ~some[:, 0], "others")


def _ground_truth(target: SoftTarget, read: ReadLabels) -> SoftTarget:
    if target.support == "others":
        raise ValueError(
            "the component 'ground_truth' needs a target with the support 'all': "
            "over the others the label has no mass"
        )
    others = read.others()
    mass = jnp.sum(jnp.where(others, target.probs, 0.0), axis=-1, keepdims=True)
    even = mass * _even(others, mass.dtype)
    return dataclasses.replace(target, probs=jnp.where(others, even, target.probs))


def _even(others: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The uniform distribution over the other classes; zeros without any."""
    ones = others.astype(dtype)
    return ones / jnp.maximum(jnp.sum(ones, axis=-1, keepdims=True), 1.0)


def component_loss(
    logits: Real[ArrayLike, "batch classes"],
    labels: Labels,
    target: SoftTarget,
    name: str,
    temperature: Real[ArrayLike, ""],
) -> Float[Array, " batch"]:
    """The distillation term of a component, nats, `[batch]`, at least 0.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`; the term of an ignored
        example is 0.
      target: of `component`.
      name: its name; with `cwtm` the term is `confidence_weights` times the cross
        entropy with the label.
      temperature: T of `distillation`, above 0; not used by `cwtm`.

    Raises:
      ValueError: an unknown name, shapes that differ, a temperature that is not above
        0, or labels that are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import component, component_loss
      >>> from introspect_jax.objectives.targets import whole_target
      >>> labels, logits = jnp.array([0]), jnp.zeros((1, 3))
      >>> target = whole_target(jnp.array([[0.6, 0.3, 0.1]]))
      >>> part = component(target, labels, "others")
      >>> component_loss(logits, labels, part, "others", 1.0).round(3).tolist()
      [0.131]
    """
    if name not in COMPONENTS:
        raise ValueError(unknown("component", name, COMPONENTS))
    scores = wide(matrix("logits", logits, (None, None)))
    if name != "cwtm":
        return distillation(scores, labels, target, temperature)
    checked_temperature("temperature", temperature, scores.dtype)
    target = read_target(target, *scores.shape)
    hard = cross_entropy(scores, labels)
    weights = confidence_weights(target.probs, labels)
    dtype = common_dtype(hard, weights)
    return weights.astype(dtype) * hard.astype(dtype)
