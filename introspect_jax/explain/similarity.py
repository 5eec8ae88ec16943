"""Similarity of classes from inner products of their explanations.

With `A` the linear map of an explanation, the explanation of class k is `a_k = A e_k`
and

    r_k = <a_k, a_y> = (A^T A e_y)_k

so one map, which gives `a_y`, and its transpose give the inner products with the
explanations of *all* classes: a VJP and a JVP for each sample or step, regardless of
the number of classes. The JVP is obtained by transposing the VJP, which, unlike
`jax.linearize`, also supports networks with `custom_vjp`.
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
    """Similarity of the explanation of every class to that of the label.

    With `r_k = <a_k, a_y>` and `n_k = |a_k|^2`:

    | similarity     | value                 | cost for a linear explanation         |
    | -------------- | --------------------- | ------------------------------------- |
    | `Projection()` | `r_k / r_y`           | one map and its transpose             |
    | `Dot()`        | `r_k`                 | one map and its transpose             |
    | `Cosine()`     | `r_k / sqrt(n_k r_y)` | depends on `norms`; by default K maps |

    One map and its transpose cost a VJP and a JVP for each sample or step. Explanations
    that are not linear (absolute values, squares, ReLU) always explain every class; see
    `explanation.linear`. `similarity.passes` describes the cost for linear ones.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]` that processes
        each example independently.
      inputs: Floating-point array `[batch, ...]`.
      labels: Ints `[batch]` (-1 for no label), or soft labels `[batch, classes]`.
        Classes are then compared with the explanation of the mixture.
      explanation: `Explanation` object or name, see `explain_fn`.
      similarity: `Similarity` object or a name: `"projection"`, `"cosine"` or `"dot"`.
      key: Random key, for explanations that sample and for `Probes`.
      index: See `explain_fn`.
      chunk_size: See `explain_fn`.
      class_chunk_size: Number of classes (or probes) processed at once; None for all.
      channel_axis: See `explain_fn`.
      center: Whether to explain `z - mean(z)` instead of the logits z.
      batched: See `explain_fn`.

    Returns:
      `[batch, classes]`, float32 or wider. A row is all zeros if the explanation of its
      label vanishes or if there is no label.

    Raises:
      ValueError: Unknown names, arrays of the wrong shape, a missing key, a class out
        of range, or a backward pass that is not linear. Under `jit` a class out of
        range gives NaN.

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
    """Similarity of the last layer's weight rows, a control that ignores the inputs.

    Like `class_similarity`, with the weights of class k in place of its explanation.

    Args:
      kernel: Weights of the last layer, `[features, classes]`.
      labels: Ints `[batch]` or soft labels `[batch, classes]`.
      similarity: See `class_similarity`; norms are always exact.
      center: Whether to subtract the mean over classes from the weights, which
        corresponds to `center` of `class_similarity`.

    Returns:
      `[batch, classes]`; rows of zeros where the weights of the label vanish.

    Raises:
      ValueError: An unknown similarity, or arrays of the wrong shape.

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
    # HIGHEST: accelerators multiply in lower precision by default.
    products = jnp.matmul(rows.T, rows, precision=jax.lax.Precision.HIGHEST)
    inner = jnp.matmul(probs, products, precision=jax.lax.Precision.HIGHEST)
    squares = jnp.broadcast_to(jnp.diagonal(products)[None], inner.shape)
    return as_similarity(similarity).values(inner, squares, probs)


def logit_similarity(
    logits: Float[ArrayLike, "batch classes"],
    labels: Labels,
    similarity: str | Similarity = "projection",
    *,
    bias: Float[ArrayLike, " classes"] | None = None,
    center: bool = False,
) -> Float[Array, "batch classes"]:
    """Similarity of the network's own logits, a control that explains nothing.

    Like `class_similarity`, with the number `u_k = z_k - b_k` in place of the
    explanation of class k: the inner products are `r_k = u_k u_y`. For a network that
    ends in global average pooling and a linear layer with bias b they are a part of the
    inner products of Grad-CAM; `Centered` has the identity.

    Args:
      logits: Logits z, `[batch, classes]`.
      labels: Ints `[batch]` (-1 for no label) or soft labels `[batch, classes]`, for
        which `u_y` is the mean of u under the label.
      similarity: See `class_similarity`; norms are always exact. The cosine of two
        numbers is their sign, 1 or -1.
      bias: Bias b of the last layer, `[classes]`; None for zero.
      center: Whether to subtract the mean over classes from u, which corresponds to
        `center` of `class_similarity`.

    Returns:
      `[batch, classes]`; rows of zeros where `u_y` vanishes or there is no label.

    Raises:
      ValueError: An unknown similarity, or arrays of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> logits, bias = jnp.array([[5.0, 3.0, -1.0]]), jnp.array([1.0, 1.0, 1.0])
      >>> logit_similarity(logits, jnp.array([0]), bias=bias)
      Array([[ 1. ,  0.5, -0.5]], dtype=float32)
      >>> logit_similarity(logits, jnp.array([0]), "dot", bias=bias)
      Array([[16.,  8., -8.]], dtype=float32)
    """
    values = wide(logits)
    if values.ndim != 2:
        raise ValueError(f"logits must be [batch, classes], got {list(values.shape)}")
    if bias is not None:
        shift = wide(bias)
        if shift.shape != values.shape[1:]:
            raise ValueError(
                f"bias must be [{values.shape[1]}], got {list(shift.shape)}"
            )
        values = values - shift.astype(values.dtype)[None]
    if center:
        values = values - values.mean(-1, keepdims=True)
    probs = as_probs(labels, values.shape[1], len(values)).astype(values.dtype)
    own = jnp.sum(probs * values, axis=-1, keepdims=True)
    return as_similarity(similarity).values(own * values, values**2, probs)
