"""The heart: explanation -> class similarity -> soft target."""

from typing import Any

import jax

from introspect_jax.explain.attribution import Head, LogitsFn
from introspect_jax.explain.similarity import class_similarity
from introspect_jax.objectives.targets import SoftTarget, similarity_target


def introspect(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    method: str = "gradient",
    similarity: str = "projection",
    temperature: float | jax.Array = 0.5,
    support: str = "others",
    norms: str = "exact",
    center: bool = False,
    head: Head | None = None,
    key: jax.Array | None = None,
    stop_gradient: bool = True,
    **options: Any,
) -> SoftTarget:
    """The soft target that a network gets from its own explanations.

    Idea: Gu, Wu and Tresp, "Introspective Learning by Distilling Knowledge from Online
    Self-explanation", ACCV 2020. The choices of explanation, similarity, temperature
    and support are this project's, each an option.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`, each example on its own: a
        BatchNorm uses its running statistics (`train=False`).
      inputs: floating point, `[batch, ...]`.
      labels: ints `[batch]` or soft labels `[batch, classes]` (mixup).
      method: explanation method, see `explain_fn`.
      similarity: see `class_similarity`, also for `norms`, `center`, `head`, `key`.
      temperature: of the softmax over the similarities, above 0.
      support: `"others"` (the classes that are not the label) or `"all"`.
      stop_gradient: the target is a constant of the loss. `False` differentiates
        through the explanations, which needs second derivatives of the network.
      **options: those of the explanation method.

    Returns:
      A `SoftTarget` for `loss_fn`.

    Raises:
      ValueError: two classes with the support "others", unknown names, wrong shapes.
    """
    similarities = class_similarity(
        logits_fn,
        inputs,
        labels,
        method=method,
        similarity=similarity,
        norms=norms,
        center=center,
        head=head,
        key=key,
        **options,
    )
    target = similarity_target(
        similarities, labels, temperature=temperature, support=support
    )
    return jax.lax.stop_gradient(target) if stop_gradient else target
