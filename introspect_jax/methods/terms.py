"""Terms that several methods share."""

import jax
import numpy as np

from introspect_jax.errors import UserError
from introspect_jax.keys import stream_key
from introspect_jax.methods.base import Batch, Context, PyTree, Values
from introspect_jax.methods.teaching import Teacher
from introspect_jax.models import make_logits_fn
from introspect_jax.objectives.components import SHUFFLED, permutation_keys
from introspect_jax.objectives.losses import (
    cross_entropy,
    describe_target,
    distillation,
)
from introspect_jax.objectives.targets import SoftTarget


def mixed(
    logits: jax.Array,
    labels: jax.Array,
    target: SoftTarget,
    *,
    hard: float = 1.0,
    soft: float,
    temperature: float = 1.0,
    distance: jax.Array | None = None,
) -> Values:
    """`hard CE + soft T^2 KL(target || p_T)`, per example, and its metrics.

    Args:
      logits: `[batch, classes]`.
      labels: Probabilities `[batch, classes]`.
      target: Soft target.
      hard: Weight of the first term.
      soft: Weight of the second term.
      temperature: Temperature T.
      distance: Values `[batch]` that replace the second term.
    """
    first = cross_entropy(logits, labels)
    second = distance
    if second is None:
        second = distillation(logits, labels, target, temperature)
    return hard * first + soft * second, {
        "cross_entropy": first,
        "distillation": second,
        "loss_weights": hard + soft,
        **describe_target(target, labels),
    }


def teacher_logits(context: Context, batch: Batch) -> jax.Array:
    """Returns the teacher's logits `[batch, classes]` for a batch, without gradient.

    The teacher sees the augmented images of the student and uses its running
    statistics.
    """
    assert context.teacher is not None  # of methods that say `TEACHER`
    logits_fn = make_logits_fn(context.teacher, batch["constants"]["teacher"])
    return jax.lax.stop_gradient(logits_fn(batch["image"]))


def teacher_constant(teacher: Teacher | None) -> PyTree:
    """Returns the teacher's variables, for `Method.constants`.

    Raises:
      UserError: There is no teacher.
    """
    if teacher is None:
        raise UserError(
            "this method learns from a teacher, and has none: give the work folder of "
            "a finished run as --config.method.teacher=RUN"
        )
    return {"teacher": teacher.variables}


def permutation_constant(context: Context, component: str) -> PyTree:
    """Returns the key of a component that shuffles, for `Method.constants`."""
    if component not in SHUFFLED:
        return {}
    key = stream_key(np.uint32(context.seed), "permutation", 0)
    return {"permutation": jax.random.key_data(key)}


def shuffle_keys(kind: str, batch: Batch, step_key: jax.Array) -> jax.Array | None:
    """Returns keys `[batch]` for a component that shuffles, otherwise None."""
    fixed = batch["constants"].get("permutation")
    if fixed is None:
        return None
    return permutation_keys(
        kind,
        step_key=step_key,
        fixed_key=jax.random.wrap_key_data(fixed),
        indices=batch["index"],
        labels=batch["label"],
    )
