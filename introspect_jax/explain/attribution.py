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
    """Explains the chosen outputs of a function.

    Maps are signed unless the explanation says otherwise. Gradient-based maps have the
    shape of the inputs; class activation maps and pooled maps are smaller. No absolute
    value, reduction or clipping is applied unless the explanation asks for it.

    The function is pure and does not call `jax.jit`, so it composes with `jax.jit`,
    `vmap`, `grad`, `shard_map` and sharded arrays.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]` that processes
        each example independently and accepts any batch size: samples and steps are
        folded into the batch.
      inputs: Floating-point array `[batch, ...]`, in any layout.
      target: Outputs to explain: an int; ints `[batch]` or `[batch, m]`, where -1
        stands for "no label" and gives a map of zeros; `"all"`; `"top:m"`; vectors
        `[batch, classes]`; or a function from logits to scores `[batch]`, such as those
        returned by `targets.contrast` and `targets.log_probability`.
      explanation: `Explanation` object, built-in or user-defined, or the name of one
        with its default hyperparameters: `"gradient"`, `"gradient_x_input"`,
        `"smoothgrad"`, `"smoothgrad_squared"`, `"vargrad"` or `"integrated_gradients"`.
      key: Random key, for explanations that sample. It is folded with each example's
        number, so the result does not depend on how the data are split into batches.
      index: Ints `[batch]`, the example numbers for the random keys; 0, 1, ... by
        default.
      chunk_size: Number of samples or steps processed at once; None for all. Memory
        grows with it; the result does not depend on it.
      class_chunk_size: Number of targets explained at once; None for all.
      channel_axis: Channel axis of the inputs (and of feature maps): -1 for
        `[batch, h, w, c]`, 1 for `[batch, c, h, w]`, None if there are no channels.
      center: Whether to explain `z - mean(z)` instead of the logits z. The mean over
        the classes does not affect the softmax.
      batched: Arrays with one row per example, such as masks, passed to `logits_fn` as
        additional arguments. They are repeated along with the inputs.

    Returns:
      Maps `[batch, ...]` in the dtype of the inputs, or `[batch, m, ...]` for several
      targets per example (`m = classes` for `"all"`).

    Raises:
      ValueError: An unknown name, integer inputs, logits that are not
        `[batch, classes]`, a class out of range, arrays of the wrong shape, or a
        missing `key`. Under `jit` a class out of range gives NaN.

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
