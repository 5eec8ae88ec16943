"""The record that targets are passed in."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Bool, Float

from introspect_jax.arrays import wide
from introspect_jax.errors import unknown
from introspect_jax.objectives._checks import describe, matrix
from introspect_jax.objectives._labels import ReadLabels, check_others

SUPPORTS = ("others", "all")


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["probs", "degenerate"],
    meta_fields=["support"],
)
@dataclasses.dataclass(frozen=True)
class SoftTarget:
    """What the outputs should be, beside the label.

    Attributes:
      probs: `[batch, classes]`, each row sums to 1 over its support, or is zero: there
        is no target for that example, and its distillation term is 0.
      degenerate: bool `[batch]`, the examples without information in their target: its
        row is uniform over the support, or zero.
      support: `"others"` (the label has no mass and the outputs are compared on the
        other classes only) or `"all"`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import SoftTarget
      >>> target = SoftTarget(jnp.array([[0.2, 0.8]]), jnp.array([False]), "all")
      >>> target.probs.shape
      (1, 2)
    """

    probs: jax.Array
    degenerate: jax.Array
    support: str


def whole_target(probs: Float[ArrayLike, "batch classes"]) -> SoftTarget:
    """Probabilities `[batch, classes]` as a target over all classes.

    Args:
      probs: `[batch, classes]`, rows that sum to 1.

    Raises:
      ValueError: another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.targets import whole_target
      >>> whole_target(jnp.full((2, 4), 0.25)).degenerate.tolist()
      [False, False]
    """
    probs = wide(matrix("probs", probs, (None, None)))
    return SoftTarget(probs, jnp.zeros(len(probs), bool), "all")


def check_support(support: str, classes: int) -> None:
    """Raises a ValueError for an unknown support, or too few classes for it."""
    if support not in SUPPORTS:
        raise ValueError(unknown("support", support, SUPPORTS))
    if support == "others":
        check_others(classes)


def support_mask(read: ReadLabels, support: str) -> jax.Array:
    """Bool `[batch, classes]`, the classes of a support; none of ignored examples."""
    if support == "others":
        return read.others()
    return jnp.broadcast_to(read.labelled[:, None], read.probs.shape)


def label_made(
    probs: jax.Array, labelled: Bool[ArrayLike, " batch"], support: str = "all"
) -> SoftTarget:
    """A target that was made of labels: ignored examples have none."""
    return SoftTarget(probs, ~jnp.asarray(labelled), support)


def read_target(target: SoftTarget, batch: int, classes: int) -> SoftTarget:
    """The target as arrays, float32 or wider.

    Raises:
      ValueError: the target of another batch or number of classes, or an unknown
        support.
    """
    if target.support not in SUPPORTS:
        raise ValueError(unknown("support", target.support, SUPPORTS))
    probs = wide(matrix("target.probs", target.probs, (batch, classes)))
    degenerate = jnp.asarray(target.degenerate)
    if degenerate.shape != (batch,):
        raise ValueError(
            f"target.degenerate must be [{batch}], got {describe(degenerate)}"
        )
    return SoftTarget(probs, degenerate, target.support)
