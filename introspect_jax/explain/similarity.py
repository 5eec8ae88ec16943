"""Which classes does the network find alike? Inner products of explanations.

With `A` the linear map of an explanation method (see `attribution`), the explanation
of class k is `a_k = A e_k` and

    r_k = <a_k, a_y> = (A^T A e_y)_k

so one VJP (which gives `a_y`) and its transpose, a JVP, give the inner products with
the explanations of *all* classes. The cost does not depend on their number.
Transposing the VJP, unlike `jax.linearize`, also serves networks with `custom_vjp`.
"""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown
from introspect_jax.explain import norms as class_norms
from introspect_jax.explain.attribution import Head, LogitsFn, make_explainer
from introspect_jax.explain.targets import target_cotangents

SIMILARITIES = ("projection", "cosine", "dot")


def class_similarity(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    labels: jax.Array,
    *,
    method: str = "gradient",
    similarity: str = "projection",
    norms: str = "exact",
    center: bool = False,
    head: Head | None = None,
    key: jax.Array | None = None,
    class_chunk_size: int | None = None,
    **options: Any,
) -> jax.Array:
    """How similar the explanation of every class is to that of the label.

    With `r_k = <a_k, a_y>` and `n_k = |a_k|^2`:

    | similarity   | value                     | passes of a linear method        |
    | ------------ | ------------------------- | -------------------------------- |
    | `projection` | `r_k / r_y`               | one VJP, one JVP                 |
    | `dot`        | `r_k`                     | one VJP, one JVP                 |
    | `cosine`     | `r_k / sqrt(n_k r_y)`     | as `norms` says                  |

    Methods that are not linear (absolute values, squares, ReLU) always explain every
    class. `similarity_path` tells which way is taken.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`, each example on its own.
      inputs: floating point, `[batch, ...]`.
      labels: ints `[batch]`, or soft labels `[batch, classes]`, of which the mixture of
        explanations is what the others are compared with.
      method: an explanation method, as in `explain_fn`.
      similarity: `"projection"`, `"cosine"` or `"dot"`.
      norms: how the cosine gets `n_k`: `"exact"` explains every class (K VJPs);
        `"last_layer"` gives the same from one VJP a feature, for networks with fewer
        features than classes; `"probes:s"` estimates them from s JVPs, with a relative
        standard deviation of about `sqrt(2 / s)`; `"top:m"` explains the m classes with
        the largest `|r_k|` and gives the others the mean norm of these.
      center: explain `z - mean(z)`.
      head: `(features_fn, head_fn, kernel)` with `logits = head_fn(features_fn(x))`.
        For `norms="last_layer"`: features `[batch, d]` and `kernel [d, classes]` of a
        last linear layer. For `grad_cam`: features `[batch, h, w, c]`.
      key: random key, for methods that sample and for `"probes:s"`.
      class_chunk_size: classes explained at once; None for all.
      **options: those of the method, as in `explain_fn`.

    Returns:
      `[batch, classes]`, float32 or wider. A row is all zeros where the explanation of
      its label vanishes, so that nothing can be compared with it.

    Raises:
      ValueError: unknown names, wrong shapes, or a `head` or `key` that is missing.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(unknown("similarity", similarity, SIMILARITIES))
    kind, count = class_norms.parse(norms)
    explainer = make_explainer(
        logits_fn,
        inputs,
        method=method,
        key=key,
        head=head,
        center=center,
        **options,
    )
    linear = explainer.linear
    label_probs = target_cotangents(labels, linear.outputs, linear.like)
    if label_probs.ndim != 2:
        raise ValueError(
            f"labels must be ints [batch] or [batch, classes], got {jnp.shape(labels)}"
        )

    squares = None
    if not explainer.is_linear or (similarity == "cosine" and kind == "exact"):
        inner, squares = class_norms.from_all_maps(
            explainer, label_probs, class_chunk_size
        )
    elif similarity == "cosine" and kind == "last_layer":
        inner, squares = class_norms.from_features(
            head,
            inputs,
            label_probs,
            class_chunk_size,
            method=method,
            key=key,
            center=center,
            **options,
        )
    else:
        inner = linear.transpose(linear.attribute(label_probs[None]))[0]
        if similarity == "cosine" and kind == "probes":
            squares = class_norms.from_probes(
                linear, key, count, options.get("index"), class_chunk_size
            )
        elif similarity == "cosine":
            squares = class_norms.from_top(explainer, inner, count, class_chunk_size)
    return _compare(similarity, inner, squares, label_probs)


def weight_row_similarity(
    kernel: jax.Array,
    labels: jax.Array,
    *,
    similarity: str = "projection",
    center: bool = False,
) -> jax.Array:
    """Similarity of the last layer's weight rows: the control that sees no input.

    As `class_similarity` with row k of the weights for the explanation of class k.

    Args:
      kernel: of the last layer, `[d, classes]`.
      labels: ints `[batch]` or soft labels `[batch, classes]`.
      similarity: see `class_similarity`.
      center: without the mean row, as `class_similarity` does with logits.

    Returns:
      `[batch, classes]`; zeros where the row of the label vanishes.

    Raises:
      ValueError: an unknown similarity.
    """
    if similarity not in SIMILARITIES:
        raise ValueError(unknown("similarity", similarity, SIMILARITIES))
    wide = kernel.astype(jnp.promote_types(kernel.dtype, jnp.float32))
    if center:
        wide = wide - wide.mean(-1, keepdims=True)
    label_probs = jnp.asarray(labels)
    if label_probs.ndim == 1:
        label_probs = jax.nn.one_hot(label_probs, kernel.shape[-1], dtype=wide.dtype)
    # HIGHEST: accelerators would multiply in bfloat16.
    products = jnp.matmul(wide.T, wide, precision=jax.lax.Precision.HIGHEST)
    inner = jnp.matmul(label_probs, products, precision=jax.lax.Precision.HIGHEST)
    return _compare(similarity, inner, jnp.diagonal(products)[None], label_probs)


def similarity_path(
    method: str = "gradient",
    similarity: str = "projection",
    norms: str = "exact",
    nonlinearity: str | None = None,
) -> str:
    """The way that `class_similarity` takes with these arguments.

    Returns:
      `"vjp and transpose"` (cost free of the number of classes), `"all classes"`,
      `"last layer"`, `"vjp, transpose and s probes"` or
      `"vjp, transpose and m classes"`.
    """
    from introspect_jax.explain.attribution import SQUARED_METHODS

    kind, count = class_norms.parse(norms)
    if nonlinearity is not None or method in SQUARED_METHODS:
        return "all classes"
    if similarity != "cosine":
        return "vjp and transpose"
    return {
        "exact": "all classes",
        "last_layer": "last layer",
        "probes": f"vjp, transpose and {count} probes",
        "top": f"vjp, transpose and {count} classes",
    }[kind]


def _compare(
    similarity: str,
    inner: jax.Array,
    squares: jax.Array | None,
    label_probs: jax.Array,
) -> jax.Array:
    """Similarities from `r_k` and, for the cosine, `n_k`, each `[batch, classes]`."""
    own = jnp.sum(label_probs * inner, axis=-1, keepdims=True)
    # What is left of a vanished explanation is rounding. The threshold is relative,
    # since the scale of gradients says nothing by itself.
    limits = jnp.finfo(inner.dtype)
    smallest = limits.tiny / limits.eps
    largest = jnp.max(jnp.abs(inner), axis=-1, keepdims=True)
    comparable = own > jnp.maximum(limits.eps * largest, smallest)
    if similarity == "dot":
        return jnp.where(comparable, inner, 0.0)
    if similarity == "projection":
        scale = own
    else:
        assert squares is not None
        comparable = comparable & (squares > smallest)
        # Root by root: the product would leave the range of float32.
        scale = jnp.sqrt(jnp.where(comparable, squares, 1.0)) * jnp.sqrt(
            jnp.where(comparable, own, 1.0)
        )
    return jnp.where(comparable, inner / jnp.where(comparable, scale, 1.0), 0.0)
