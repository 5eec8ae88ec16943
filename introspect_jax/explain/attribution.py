"""`explain_fn`: explanations of any output of any function."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.maps import in_chunks
from introspect_jax.explain.named import as_explanation
from introspect_jax.explain.problem import make_problem
from introspect_jax.explain.targets import Target, target_cotangents


def explain_fn(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: Target,
    explanation: str | Explanation = "gradient",
    *,
    key: Array | None = None,
    index: Integer[ArrayLike, " batch"] | None = None,
    chunk_size: int | None = None,
    class_chunk_size: int | None = None,
    channel_axis: int | None = -1,
    center: bool = False,
    batched: tuple[ArrayLike, ...] = (),
) -> Float[Array, " batch *map"]:
    """Explanations of the chosen outputs, signed and as large as the inputs.

    Never jitted inside and free of state, so it composes with `jax.jit`, `vmap`,
    `grad`, `shard_map` and sharded arrays. No absolute value, reduction or clipping
    unless the explanation asks for it.

    Args:
      logits_fn: `(inputs, *batched) -> logits [batch, classes]`, each example on its
        own, for any batch size: samples and steps are folded into the batch.
      inputs: floating point, `[batch, ...]`, any layout.
      target: what to explain: an int; ints `[batch]` or `[batch, m]`, where -1 stands
        for "no label" and gives a map of zeros; `"all"`; `"top:m"`; vectors `[batch,
        classes]`; or a function of the logits to scores `[batch]`, such as
        `targets.contrast` and `targets.log_probability` make.
      explanation: an object of `introspect_jax.explain` or of your own (`Explanation`
        says how), or the name of one, short for the object with its defaults:
        `"gradient"`, `"gradient_x_input"`, `"smoothgrad"`, `"smoothgrad_squared"`,
        `"vargrad"`, `"integrated_gradients"`.
      key: random key, for explanations that sample. Each example's own key folds in its
        number, so the result does not depend on how a batch was cut.
      index: the examples' numbers for their keys; 0, 1, ... by default.
      chunk_size: samples or steps at once, None for all. Memory grows with it; the
        result does not depend on it.
      class_chunk_size: targets explained at once, None for all.
      channel_axis: axis of the channels in the inputs (and in feature maps): -1 for
        `[batch, h, w, c]`, 1 for `[batch, c, h, w]`, None for none.
      center: explain `z - mean(z)`, which drops what a softmax cannot see.
      batched: arrays with a row for each example, such as masks, further arguments of
        `logits_fn`. They are repeated along with the inputs.

    Returns:
      `[batch, ...]` in the dtype of the inputs, or `[batch, m, ...]` for several
      targets an example (`m = classes` for `"all"`).

    Raises:
      ValueError: an unknown name, integer inputs, logits that are not
        `[batch, classes]`, a class out of range, another shape, a missing `key`.
        Under `jit` a class out of range gives NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax.explain import IntegratedGradients
      >>> kernel = jax.random.normal(jax.random.key(0), (12, 5))
      >>> logits_fn = lambda x: jnp.tanh(x) @ kernel
      >>> x = jax.random.normal(jax.random.key(1), (4, 12))
      >>> explain_fn(logits_fn, x, jnp.array([0, 1, 2, 3])).shape
      (4, 12)
      >>> maps = explain_fn(logits_fn, x, "all", IntegratedGradients(num_steps=20))
      >>> maps.shape
      (4, 5, 12)
    """
    score = target if callable(target) else None
    problem = make_problem(
        logits_fn,
        inputs,
        key=key,
        index=index,
        chunk_size=chunk_size,
        channel_axis=channel_axis,
        center=center,
        batched=batched,
        score=score,
    )
    explained = as_explanation(explanation).bind(problem)
    if score is not None:
        outputs = explained.problem.outputs
        target = jnp.ones(outputs.shape, outputs.dtype)
    cotangents = target_cotangents(target, explained)
    several = cotangents.ndim == 3
    parts = in_chunks(
        explained,
        cotangents if several else cotangents[:, None],
        class_chunk_size,
        lambda maps: maps,
    )
    maps = jnp.concatenate(parts, axis=1)
    return (maps if several else maps[:, 0]).astype(problem.dtype)
