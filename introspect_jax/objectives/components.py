"""Which part of a soft target does the work? Its parts, one at a time.

After the analyses of Gu, Wu and Tresp (ACCV 2020), of Furlanello et al. (Born-Again
Neural Networks, ICML 2018) and of Zhao et al. (Decoupled Knowledge Distillation, CVPR
2022). They are the same for the probabilities of a teacher and for a network's own
introspection.
"""

import dataclasses

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown
from introspect_jax.objectives.losses import cross_entropy, distillation
from introspect_jax.objectives.targets import (
    SoftTarget,
    as_probs,
    check_others,
    other_classes,
    uniform_others,
)

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
# Accelerators would multiply in fewer bits, and rows not sum to 1.
_EXACT = jax.lax.Precision.HIGHEST
PERMUTATIONS = ("fresh", "fixed")


def component(
    target: SoftTarget,
    labels: jax.Array,
    name: str,
    *,
    keys: jax.Array | None = None,
    class_means: jax.Array | None = None,
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
      labels: ints `[batch]` or probabilities `[batch, classes]`; of soft labels all
        classes with mass are the true ones.
      name: one of `COMPONENTS`.
      keys: `[batch]` of `permutation_keys`, where something is shuffled.
      class_means: `[classes, classes]`, rows sum to 1, for `class_average`.

    Raises:
      ValueError: an unknown name, keys or means that are missing, `ground_truth` of a
        target that has no mass there (support `"others"`), or `others` and `uniform`
        of two classes.
    """
    if name not in COMPONENTS:
        raise ValueError(unknown("component", name, COMPONENTS))
    probs, classes = target.probs, target.probs.shape[-1]
    label_probs = as_probs(labels, classes)
    others = other_classes(labels, classes)
    if name in SHUFFLED:
        if keys is None:
            raise ValueError(f"the component {name!r} needs keys [batch]")
        movable = others
        if name == "dkpp":
            largest = jnp.arange(classes) == jnp.argmax(probs, -1, keepdims=True)
            movable = ~largest & (others | (target.support == "all"))
        return dataclasses.replace(target, probs=permute(probs, movable, keys))
    if name == "class_average":
        if class_means is None:
            raise ValueError("the component 'class_average' needs class_means")
        # Soft labels mix rows, each of which has mass on the other's class.
        probs = jnp.matmul(label_probs, class_means, precision=_EXACT)
        target = dataclasses.replace(target, probs=probs)
        if target.support == "all":
            return target
    if name == "uniform":
        return uniform_others(labels, classes)
    rest = jnp.where(others, probs, 0.0)
    mass = rest.sum(-1, keepdims=True)
    even = others / jnp.maximum(others.sum(-1, keepdims=True), 1)
    if name in ("others", "class_average"):
        check_others(classes)
        renormalised = jnp.where(mass > 0, rest / jnp.where(mass > 0, mass, 1.0), even)
        return SoftTarget(renormalised, target.degenerate | (mass[:, 0] == 0), "others")
    if name == "ground_truth":
        if target.support == "others":
            raise ValueError(
                "the component 'ground_truth' needs a target with the support 'all': "
                "over the others the label has no mass"
            )
        return dataclasses.replace(target, probs=jnp.where(others, mass * even, probs))
    return target


def component_loss(
    logits: jax.Array,
    labels: jax.Array,
    target: SoftTarget,
    name: str,
    temperature: float | jax.Array,
) -> jax.Array:
    """The distillation term of a component, nats, `[batch]`, at least 0.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      target: of `component`.
      name: its name; with `cwtm` the term is `confidence_weights` times the cross
        entropy with the label.
      temperature: T of `distillation`; `cwtm` has none.
    """
    if name == "cwtm":
        return confidence_weights(target.probs) * cross_entropy(logits, labels)
    return distillation(logits, labels, target, temperature)


def confidence_weights(probs: jax.Array) -> jax.Array:
    """`N max_k q_sk / sum_u max_k q_uk`, `[batch]`, with mean 1, above 0.

    Furlanello et al. 2018, who sum over the batch and have no N.

    Args:
      probs: `[batch, classes]`.
    """
    largest = jnp.max(probs, axis=-1)
    return largest / jnp.mean(largest)


def permute(probs: jax.Array, movable: jax.Array, keys: jax.Array) -> jax.Array:
    """Shuffles the movable entries of each row among themselves.

    Args:
      probs: `[batch, classes]`.
      movable: bool `[batch, classes]`.
      keys: random keys `[batch]`.
    """

    def one(row: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        draws = jnp.where(mask, jax.random.uniform(key, row.shape), jnp.inf)
        # Both orders list the movable first; the rest, in order, stays where it is.
        shuffled = jnp.argsort(draws, stable=True)
        positions = jnp.argsort(~mask, stable=True)
        return jnp.zeros_like(row).at[positions].set(row[shuffled])

    return jax.vmap(one)(probs, movable, keys)


def permutation_keys(
    kind: str,
    *,
    step_key: jax.Array,
    fixed_key: jax.Array,
    indices: jax.Array,
    labels: jax.Array,
) -> jax.Array:
    """Random keys `[batch]` for `component`.

    Args:
      kind: `"fresh"`: another shuffle for every example and step; `"fixed"`: one for
        every class, the same for the whole run.
      step_key: of this step.
      fixed_key: of the run.
      indices: `[batch]`, which examples these are.
      labels: ints `[batch]` or probabilities `[batch, classes]`, whose largest counts.

    Raises:
      ValueError: another kind.
    """
    if kind not in PERMUTATIONS:
        raise ValueError(unknown("permutation", kind, PERMUTATIONS))
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    if kind == "fresh":
        return fold(step_key, indices)
    labels = jnp.asarray(labels)
    return fold(fixed_key, labels if labels.ndim == 1 else jnp.argmax(labels, -1))


def update_class_means(
    means: jax.Array, probs: jax.Array, labels: jax.Array, decay: float
) -> jax.Array:
    """Running mean of what is said of each class, `[classes, classes]`.

    Args:
      means: before; rows of zeros for classes not seen yet, which start at the mean of
        this batch.
      probs: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`, by which examples are
        weighted.
      decay: what remains of the row of a class that has an example or more in the
        batch; rows of other classes do not change.
    """
    label_probs = as_probs(labels, len(means))
    counts = label_probs.sum(0)[:, None]
    sums = jnp.matmul(label_probs.T, probs, precision=_EXACT)
    found = sums / jnp.where(counts > 0, counts, 1.0)
    unseen = ~jnp.any(means > 0, axis=-1, keepdims=True)
    # A class of which there is but a share (mixup) moves by that share.
    kept = decay ** jnp.minimum(counts, 1.0)
    mixed = jnp.where(unseen, found, kept * means + (1 - kept) * found)
    return jnp.where(counts > 0, mixed, means)
