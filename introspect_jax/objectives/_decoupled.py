"""The two parts of a teacher's divergence, one number per example; see `losses`."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Real

from introspect_jax.arrays import Labels, wide
from introspect_jax.objectives import _divergence
from introspect_jax.objectives._checks import (
    checked_temperature,
    common_dtype,
    matrix,
)
from introspect_jax.objectives._labels import ReadLabels, read_labels


def tckd(
    logits: Real[ArrayLike, "batch classes"],
    labels: Labels,
    teacher_logits: Real[ArrayLike, "batch classes"],
    temperature: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, " batch"]:
    """`T^2 KL((t_y, 1 - t_y) || (s_y, 1 - s_y))`, nats, `[batch]`, at least 0.

    Target-class distillation of Zhao et al., Decoupled Knowledge Distillation, CVPR
    2022 (arXiv 2203.08679), with `t` and `s` the softmax at temperature T of teacher
    and student. `1 - t_y` is a sum over the other classes in log space, so that it
    keeps its digits where the teacher is certain. With `nckd`, per example,

        T^2 KL(t || s) = tckd + (1 - t_y) nckd

    Args:
      logits: of the student, `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`; of labels mixed from
        two examples the event is that the class is one of the two
        (`targets.other_classes`). The term of an ignored example is 0.
      teacher_logits: `[batch, classes]`; they get no gradient.
      temperature: T, above 0.

    Raises:
      ValueError: shapes that differ, a temperature that is not above 0, or labels that
        are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import tckd
      >>> logits, teacher = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[3.0, 0.0, 1.0]])
      >>> tckd(logits, jnp.array([0]), teacher, 2.0).round(3).tolist()
      [0.121]
    """
    scores, teacher, read, softness = _read(logits, labels, teacher_logits, temperature)
    student = _label_against_others(scores, read, softness)
    target = _label_against_others(teacher, read, softness)
    probs = _divergence.softmax(target, None)
    value = _divergence.divergence(student, probs, None, jnp.ones_like(softness))
    return read.guard(value * softness**2)


def nckd(
    logits: Real[ArrayLike, "batch classes"],
    labels: Labels,
    teacher_logits: Real[ArrayLike, "batch classes"],
    temperature: Real[ArrayLike, ""] = 1.0,
) -> Float[Array, " batch"]:
    """`T^2 KL(t^ || s^)` among the other classes, nats, `[batch]`, at least 0.

    Non-target-class distillation of Zhao et al. 2022, see `tckd`, with `t^` and `s^`
    the softmax over the classes that are not the label. They are left out of the sums,
    where the released code subtracts 1000 from the label's scaled logit.

    Args:
      logits: of the student, `[batch, classes]`.
      labels: as in `tckd`. Rows with a single other class, all of them with two
        classes, give 0.
      teacher_logits: `[batch, classes]`; they get no gradient.
      temperature: T, above 0.

    Raises:
      ValueError: shapes that differ, a temperature that is not above 0, or labels that
        are refused by `targets.as_probs`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.losses import nckd
      >>> logits, teacher = jnp.array([[2.0, 1.0, 0.0]]), jnp.array([[3.0, 0.0, 1.0]])
      >>> nckd(logits, jnp.array([0]), teacher, 2.0).round(3).tolist()
      [0.49]
    """
    scores, teacher, read, softness = _read(logits, labels, teacher_logits, temperature)
    others = read.others()
    probs = _divergence.softmax(teacher, others, softness)
    value = _divergence.divergence(scores, probs, others, softness)
    return read.guard(value * softness**2)


def _read(
    logits: Any, labels: Any, teacher_logits: Any, temperature: Any
) -> tuple[jax.Array, jax.Array, ReadLabels, jax.Array]:
    """Both networks' logits, of one type, the labels and the temperature."""
    scores = wide(matrix("logits", logits, (None, None)))
    batch, classes = scores.shape
    teacher = wide(matrix("teacher_logits", teacher_logits, (batch, classes)))
    read = read_labels(labels, classes, batch)
    dtype = common_dtype(scores, teacher)
    softness = checked_temperature("temperature", temperature, dtype)
    teacher = jax.lax.stop_gradient(read.clean(teacher.astype(dtype)))
    return read.clean(scores.astype(dtype)), teacher, read, softness


def _label_against_others(
    logits: jax.Array, read: ReadLabels, temperature: jax.Array
) -> jax.Array:
    """Logarithms of the probabilities of the label and of all others together, but for
    a constant, `[batch, 2]`."""
    others = read.others()
    # Less the maximum first, for the digits of the quotient.
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    shifted = logits - jnp.where(top == -jnp.inf, 0.0, top)
    both = [_log_total(shifted, mask, temperature) for mask in (~others, others)]
    return jnp.stack(both, axis=-1)


def _log_total(logits: jax.Array, mask: jax.Array, temperature: jax.Array) -> jax.Array:
    """`log sum_k exp(z_k / T)` over the mask, `[batch]`; -inf without a class."""
    scaled, kept = _divergence.scaled_logits(logits, mask, temperature)
    some = jnp.any(kept, axis=-1)
    top = jnp.max(jnp.where(kept, logits, -jnp.inf), axis=-1)
    # `scaled` is less this maximum, which is a constant there.
    top = jax.lax.stop_gradient(jnp.where(some, top, 0.0))
    total = jnp.sum(jnp.where(kept, jnp.exp(scaled), 0.0), axis=-1)
    value = jnp.log(jnp.where(some, total, 1.0)) + top / temperature
    return jnp.where(some, value, -jnp.inf)
