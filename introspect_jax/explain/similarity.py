"""Which classes does the network find alike? Inner products of explanations.

With `A` the linear map of an explanation method (see `attribution`), the explanation
of class k is `a_k = A e_k` and

    r_k = <a_k, a_y> = (A^T A e_y)_k

so one VJP (which gives `a_y`) and its transpose, a JVP, give the inner products with
the explanations of *all* classes. The cost does not depend on their number.
Transposing the VJP, unlike `jax.linearize`, also serves networks with `custom_vjp`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown
from introspect_jax.explain.attribution import (
    LinearMap,
    LogitsFn,
    linear_explainer,
    target_cotangents,
)

SIMILARITIES = ("projection", "cosine", "dot")
NORMS = ("exact", "last_layer")
Head = tuple[Callable[[jax.Array], jax.Array], Callable[[jax.Array], jax.Array], Any]


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
    **options,
) -> jax.Array:
    """How similar the explanation of every class is to that of the label.

    With `r_k = <a_k, a_y>` and `n_k = |a_k|^2`:

    | similarity   | value                     | cost                         |
    | ------------ | ------------------------- | ---------------------------- |
    | `projection` | `r_k / r_y`               | one VJP, one JVP             |
    | `dot`        | `r_k`                     | one VJP, one JVP             |
    | `cosine`     | `r_k / sqrt(n_k r_y)`     | as `norms` says              |

    Args:
      logits_fn: inputs -> logits `[batch, classes]`, each example on its own.
      inputs: floating point, `[batch, ...]`.
      labels: ints `[batch]`, or soft labels `[batch, classes]`, of which the mixture of
        explanations is what the others are compared with.
      method: an explanation method, as in `explain_fn`.
      similarity: `"projection"`, `"cosine"` or `"dot"`.
      norms: how the cosine gets `n_k`: `"exact"` explains every class (K backward
        passes at once); `"last_layer"` gives the same from as many passes as there are
        features, for networks with fewer features than classes.
      center: explain `z - mean(z)`.
      head: `(features_fn, head_fn, kernel)` with `logits = head_fn(features_fn(x))`,
        features `[batch, d]` and `kernel [d, classes]` of a last linear layer; only
        for `norms="last_layer"`.
      key: random key of the methods that sample; none here does.
      **options: those of the method.

    Returns:
      `[batch, classes]`, float32 or wider. A row is all zeros where the explanation of
      its label vanishes, so that nothing can be compared with it.

    Raises:
      ValueError: unknown names, wrong shapes, or a `head` that is missing.
    """
    del key
    if similarity not in SIMILARITIES:
        raise ValueError(unknown("similarity", similarity, SIMILARITIES))
    if norms not in NORMS:
        raise ValueError(unknown("norms", norms, NORMS))
    if norms == "last_layer" and head is None:
        raise ValueError(
            "norms='last_layer' needs head=(features_fn, head_fn, kernel), got None"
        )
    logits, attribute = linear_explainer(
        logits_fn, inputs, method=method, center=center, **options
    )
    label_probs = target_cotangents(labels, logits)
    if label_probs.ndim != 2:
        raise ValueError(
            f"labels must be ints [batch] or [batch, classes], got {labels.shape}"
        )
    if similarity != "cosine":
        inner = _inner_products(attribute, label_probs)
    elif norms == "exact":
        inner, squares = _from_all_maps(attribute, logits, label_probs)
    else:
        inner, squares = _from_features(
            head, inputs, label_probs, method=method, center=center, **options
        )
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
        comparable = comparable & (squares > smallest)
        scale = jnp.sqrt(jnp.where(comparable, squares * own, 1.0))
    return jnp.where(comparable, inner / jnp.where(comparable, scale, 1.0), 0.0)


def _inner_products(attribute: LinearMap, label_probs: jax.Array) -> jax.Array:
    """`r_k` `[batch, classes]` by the map and its transpose."""
    label_map = attribute(label_probs)
    return jax.linear_transpose(attribute, label_probs)(label_map)[0]


def _all_maps(attribute: LinearMap, outputs: jax.Array) -> jax.Array:
    """The explanation of every output, flat: `[batch, outputs, inputs]`."""
    maps = jax.vmap(attribute, in_axes=1, out_axes=1)(target_cotangents("all", outputs))
    return maps.reshape(*maps.shape[:2], -1)


def _from_all_maps(
    attribute: LinearMap, logits: jax.Array, label_probs: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """`r_k` and `n_k`, each `[batch, classes]`, from the K explanations themselves."""
    maps = _all_maps(attribute, logits)
    label_map = jnp.einsum("bk,bkp->bp", label_probs, maps)
    return jnp.einsum("bkp,bp->bk", maps, label_map), jnp.sum(maps**2, axis=-1)


def _from_features(
    head: Head | None,
    inputs: jax.Array,
    label_probs: jax.Array,
    *,
    method: str,
    center: bool,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """The same from the explanations of the d features.

    With G their Gram matrix and `w_k` the columns of the kernel, `<a_k, a_l>` is
    `w_k^T G w_l`.
    """
    assert head is not None
    features_fn, _, kernel = head
    features, attribute = linear_explainer(
        features_fn, inputs, method=method, **options
    )
    maps = _all_maps(attribute, features)
    gram = jnp.einsum("bip,bjp->bij", maps, maps)
    kernel = jnp.asarray(kernel, gram.dtype)
    if center:
        kernel = kernel - kernel.mean(axis=-1, keepdims=True)
    weighted = jnp.einsum("bij,jk->bik", gram, kernel)
    inner = jnp.einsum("ik,bil,bl->bk", kernel, weighted, label_probs)
    # G is positive semidefinite; rounding is not.
    squares = jnp.maximum(jnp.einsum("ik,bik->bk", kernel, weighted), 0.0)
    return inner, squares
