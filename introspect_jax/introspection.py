"""The heart: explanation -> class similarity -> soft target."""

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
    """The soft target that a network gets from its own explanations.

    Idea: Gu, Wu and Tresp, "Introspective Learning by Distilling Knowledge from Online
    Self-explanation", ACCV 2020. The choices of explanation, similarity, temperature
    and support are this project's, each an option.

    Args:
      logits_fn: `(inputs, *batched) -> logits [batch, classes]`, each example on its
        own: a BatchNorm uses its running statistics (`train=False`).
      inputs: floating point, `[batch, ...]`.
      labels: ints `[batch]` (-1: no label) or soft labels `[batch, classes]` (mixup).
      explanation: an object or a name, see `explain_fn`.
      similarity: an object or a name, see `class_similarity`.
      temperature: of the softmax over the similarities, above 0.
      support: `"others"` (the classes that are not the label) or `"all"`.
      stop_gradient: the target is a constant of the loss. `False` differentiates
        through the explanations, which needs second derivatives of the network.
      key: see `explain_fn`, as all that follow.
      index: the examples' numbers.
      chunk_size: samples or steps at once.
      class_chunk_size: classes (or probes) at once.
      channel_axis: axis of the channels, or None.
      center: explain `z - mean(z)`.
      batched: further arguments of `logits_fn`, with a row for each example.

    Returns:
      A `SoftTarget` for `loss_fn`.

    Raises:
      ValueError: two classes with the support "others", unknown names, wrong shapes.

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
