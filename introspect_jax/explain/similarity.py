"""Which classes does the network find alike? Inner products of explanations.

With `A` the linear map of an explanation, the explanation of class k is `a_k = A e_k`
and

    r_k = <a_k, a_y> = (A^T A e_y)_k

so one VJP (which gives `a_y`) and its transpose, a JVP, give the inner products with
the explanations of *all* classes. The cost does not depend on their number.
Transposing the VJP, unlike `jax.linearize`, also serves networks with `custom_vjp`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Integer

from introspect_jax.arrays import Labels, as_probs, wide
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.named import as_explanation, as_similarity
from introspect_jax.explain.problem import check_chunk, make_problem
from introspect_jax.explain.similarities import Comparison, Similarity
from introspect_jax.explain.targets import label_cotangents


def class_similarity(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    labels: Labels,
    explanation: str | Explanation = "gradient",
    similarity: str | Similarity = "projection",
    *,
    key: Array | None = None,
    index: Integer[ArrayLike, " batch"] | None = None,
    chunk_size: int | None = None,
    class_chunk_size: int | None = None,
    channel_axis: int | None = -1,
    center: bool = False,
    batched: tuple[ArrayLike, ...] = (),
) -> Float[Array, "batch classes"]:
    """How similar the explanation of every class is to that of the label.

    With `r_k = <a_k, a_y>` and `n_k = |a_k|^2`:

    | similarity     | value                 | a linear explanation takes           |
    | -------------- | --------------------- | ------------------------------------ |
    | `Projection()` | `r_k / r_y`           | one VJP, one JVP                     |
    | `Dot()`        | `r_k`                 | one VJP, one JVP                     |
    | `Cosine()`     | `r_k / sqrt(n_k r_y)` | what its `norms` say, by default K VJPs |

    Explanations that are not linear (absolute values, squares, ReLU) always explain
    every class: `explanation.linear` tells, and `similarity.passes` what is taken.

    Args:
      logits_fn: `(inputs, *batched) -> logits [batch, classes]`, each example on its
        own.
      inputs: floating point, `[batch, ...]`.
      labels: ints `[batch]` (-1: no label), or soft labels `[batch, classes]`, of which
        the mixture of explanations is what the others are compared with.
      explanation: an object or a name, as in `explain_fn`.
      similarity: an object of `introspect_jax.explain` or a name: `"projection"`,
        `"cosine"` or `"dot"`.
      key: random key, for explanations that sample and for `Probes`.
      index: see `explain_fn`.
      chunk_size: see `explain_fn`.
      class_chunk_size: classes (or probes) at once; None for all.
      channel_axis: see `explain_fn`.
      center: explain `z - mean(z)`.
      batched: see `explain_fn`.

    Returns:
      `[batch, classes]`, float32 or wider. A row is all zeros where the explanation of
      its label vanishes, or there is no label, so that nothing can be compared.

    Raises:
      ValueError: unknown names, wrong shapes, a missing key, a class out of range, or a
        backward pass that is not linear. Under `jit` a class out of range gives NaN.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax.explain import Cosine, Probes, SmoothGrad
      >>> kernel = jax.random.normal(jax.random.key(0), (12, 5))
      >>> logits_fn = lambda x: jnp.tanh(x) @ kernel
      >>> x = jax.random.normal(jax.random.key(1), (4, 12))
      >>> class_similarity(logits_fn, x, jnp.array([0, 1, 2, 3])).shape
      (4, 5)
      >>> s = class_similarity(logits_fn, x, jnp.array([0, 1, 2, 3]),
      ...                      SmoothGrad(num_samples=8), Cosine(norms=Probes(8)),
      ...                      key=jax.random.key(2))
      >>> s.shape
      (4, 5)
    """
    explanation, similarity = as_explanation(explanation), as_similarity(similarity)
    check_chunk("class_chunk_size", class_chunk_size)
    problem = make_problem(
        logits_fn,
        inputs,
        key=key,
        index=index,
        chunk_size=chunk_size,
        channel_axis=channel_axis,
        center=center,
        batched=batched,
    )
    explained = explanation.bind(problem)
    cotangents = label_cotangents(labels, explained)
    comparison = Comparison(
        explanation, problem, explained, cotangents, class_chunk_size
    )
    return similarity.values(*similarity.products(comparison), cotangents)


def weight_row_similarity(
    kernel: Float[ArrayLike, "features classes"],
    labels: Labels,
    similarity: str | Similarity = "projection",
    *,
    center: bool = False,
) -> Float[Array, "batch classes"]:
    """Similarity of the last layer's weight rows: the control that sees no input.

    As `class_similarity` with row k of the weights for the explanation of class k.

    Args:
      kernel: of the last layer, `[features, classes]`.
      labels: ints `[batch]` or soft labels `[batch, classes]`.
      similarity: see `class_similarity`; norms are exact.
      center: without the mean row, as `class_similarity` does with logits.

    Returns:
      `[batch, classes]`; zeros where the row of the label vanishes.

    Raises:
      ValueError: an unknown similarity, or another shape.

    Example:
      >>> import jax.numpy as jnp
      >>> kernel = jnp.array([[3.0, 8.0, -3.0], [4.0, 6.0, -4.0]])
      >>> weight_row_similarity(kernel, jnp.array([0]), "cosine")
      Array([[ 1.  ,  0.96, -1.  ]], dtype=float32)
    """
    rows = wide(kernel)
    if rows.ndim != 2:
        raise ValueError(f"kernel must be [features, classes], got {list(rows.shape)}")
    if center:
        rows = rows - rows.mean(-1, keepdims=True)
    probs = as_probs(labels, rows.shape[1]).astype(rows.dtype)
    # HIGHEST: accelerators would multiply in bfloat16.
    products = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
    inner = jnp.matmul(probs, products, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.broadcast_to(jnp.diagonal(products)[None], inner.shape)
    return as_similarity(similarity).values(inner, squares, probs)
