"""Soft targets from class similarity: explanation -> similarity -> target."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, ArrayLike, Float, Integer, Real

from introspect_jax.arrays import Labels
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.similarities import Similarity
from introspect_jax.explain.similarity import class_similarity
from introspect_jax.objectives.targets import SoftTarget, similarity_target


def introspect(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    labels: Labels,
    explanation: str | Explanation = "gradient",
    similarity: str | Similarity = "projection",
    *,
    temperature: Real[ArrayLike, ""] = 0.5,
    support: str = "others",
    stop_gradient: bool = True,
    key: Array | None = None,
    index: Integer[ArrayLike, " batch"] | None = None,
    chunk_size: int | None = None,
    class_chunk_size: int | None = None,
    channel_axis: int | None = -1,
    center: bool = False,
    batched: tuple[ArrayLike, ...] = (),
) -> SoftTarget:
    """Computes a soft target from the network's explanations of its own outputs.

    The idea is due to Gu, Wu and Tresp, "Introspective Learning by Distilling Knowledge
    from Online Self-explanation", ACCV 2020. The choices of explanation, similarity,
    temperature and support are specific to this project; each is an option.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]` that processes
        each example independently: BatchNorm must use its running statistics
        (`train=False`).
      inputs: Floating-point array `[batch, ...]`.
      labels: Ints `[batch]` (-1 for an ignored example, whose loss and gradient are
        exactly 0) or soft labels `[batch, classes]` (mixup).
      explanation: `Explanation` object or name, see `explain_fn`.
      similarity: `Similarity` object or name, see `class_similarity`.
      temperature: Softmax temperature, above 0.
      support: Classes that receive probability mass: `"others"` (all classes but the
        label) or `"all"`.
      stop_gradient: Whether the target is a constant of the loss. `False`
        differentiates through the explanations, which requires second derivatives of
        the network.
      key: Random key, see `explain_fn`.
      index: Example numbers for the random keys, see `explain_fn`.
      chunk_size: Number of samples or steps processed at once, see `explain_fn`.
      class_chunk_size: Number of classes (or probes) processed at once, see
        `class_similarity`.
      channel_axis: Channel axis of the inputs, see `explain_fn`.
      center: Whether to explain `z - mean(z)` instead of the logits z.
      batched: Additional per-example arguments of `logits_fn`, see `explain_fn`.

    Returns:
      A `SoftTarget` for `loss_fn`.

    Raises:
      ValueError: Two classes with the support "others", unknown names, or arrays of the
        wrong shape.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax import introspect, loss_fn
      >>> kernel = jax.random.normal(jax.random.key(0), (12, 5))
      >>> logits_fn = lambda x: jnp.tanh(x) @ kernel
      >>> x = jax.random.normal(jax.random.key(1), (4, 12))
      >>> y = jnp.array([0, 1, 2, 3])
      >>> target = introspect(logits_fn, x, y, "gradient", "cosine", temperature=0.3)
      >>> target.probs.shape, target.support
      ((4, 5), 'others')
      >>> loss, metrics = loss_fn(logits_fn(x), y, target, weight=0.1)
      >>> loss.shape
      (4,)
    """
    similarities = class_similarity(
        logits_fn,
        inputs,
        labels,
        explanation,
        similarity,
        key=key,
        index=index,
        chunk_size=chunk_size,
        class_chunk_size=class_chunk_size,
        channel_axis=channel_axis,
        center=center,
        batched=batched,
    )
    target = similarity_target(
        similarities, labels, temperature=temperature, support=support
    )
    return jax.lax.stop_gradient(target) if stop_gradient else target
