"""Norms of the class explanations, `n_k = |a_k|^2`: exactly, or estimated."""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown
from introspect_jax.explain.attribution import (
    Explainer,
    Head,
    make_explainer,
)
from introspect_jax.explain.linear import LinearExplainer
from introspect_jax.explain.paths import example_keys
from introspect_jax.explain.targets import target_cotangents

NORMS = ("exact", "last_layer", "probes:s", "top:m")


def parse(norms: str) -> tuple[str, int]:
    """`"probes:8"` as `("probes", 8)`; 0 where there is no number.

    Raises:
      ValueError: none of `NORMS`.
    """
    kind, _, count = norms.partition(":")
    if norms in ("exact", "last_layer"):
        return kind, 0
    if kind not in ("probes", "top") or not count.isdecimal() or int(count) < 1:
        raise ValueError(unknown("norms", norms, NORMS))
    return kind, int(count)


def from_all_maps(
    explainer: Explainer, label_probs: jax.Array, class_chunk_size: int | None
) -> tuple[jax.Array, jax.Array]:
    """`r_k` and `n_k`, each `[batch, classes]`, from the K explanations themselves."""
    linear = explainer.linear
    cotangents = target_cotangents("all", linear.outputs, linear.like)
    whole = (class_chunk_size or cotangents.shape[1]) >= cotangents.shape[1]
    if whole and explainer.is_linear:
        maps = _flat(explainer.explain(cotangents))
        label_map = jnp.einsum("bk,bkp->bp", label_probs, maps)
        return jnp.einsum("bkp,bp->bk", maps, label_map), jnp.sum(maps**2, axis=-1)
    label_map = explainer.explain(label_probs)
    label_map = label_map.reshape(len(label_map), -1)

    def products(maps: jax.Array) -> tuple[jax.Array, jax.Array]:
        flat = _flat(maps)
        return jnp.einsum("bkp,bp->bk", flat, label_map), jnp.sum(flat**2, axis=-1)

    parts = explainer.fold(cotangents, class_chunk_size, products)
    inner, squares = zip(*parts, strict=True)
    return jnp.concatenate(inner, axis=1), jnp.concatenate(squares, axis=1)


def from_features(
    head: Head | None,
    inputs: jax.Array,
    label_probs: jax.Array,
    class_chunk_size: int | None,
    *,
    center: bool,
    **options: Any,
) -> tuple[jax.Array, jax.Array]:
    """The same from the explanations of the d features before a linear last layer.

    With G their Gram matrix and `w_k` the columns of the kernel, `<a_k, a_l>` is
    `w_k^T G w_l`.

    Raises:
      ValueError: no `head`, or not one with a kernel that fits the features.
    """
    if head is None or head[2] is None:
        raise ValueError(
            "norms='last_layer' needs head=(features_fn, head_fn, kernel) of a last "
            f"linear layer, got {'no head' if head is None else 'no kernel'}"
        )
    explainer = make_explainer(head[0], inputs, **options)
    linear = explainer.linear
    cotangents = target_cotangents("all", linear.outputs, linear.like)
    maps = _flat(explainer.explain(cotangents, class_chunk_size))
    gram = jnp.einsum("bip,bjp->bij", maps, maps)
    kernel = jnp.asarray(head[2], gram.dtype)
    wanted = (gram.shape[1], label_probs.shape[1])
    if kernel.shape != wanted:
        raise ValueError(f"the kernel of head must be {wanted}, got {kernel.shape}")
    if center:
        kernel = kernel - kernel.mean(axis=-1, keepdims=True)
    weighted = jnp.einsum("bij,jk->bik", gram, kernel)
    inner = jnp.einsum("ik,bil,bl->bk", kernel, weighted, label_probs)
    # G is positive semidefinite; rounding is not.
    return inner, jnp.maximum(jnp.einsum("ik,bik->bk", kernel, weighted), 0.0)


def from_probes(
    linear: LinearExplainer,
    key: Any,
    count: int,
    index: jax.Array | None,
    chunk_size: int | None,
) -> jax.Array:
    """`n_k ~ mean_i (A^T v_i)_k^2` `[batch, classes]`, v of independent signs."""
    like = jax.eval_shape(linear.post, linear.like)
    if index is None:
        index = jnp.arange(like.shape[0])
    keys = example_keys(key, index, "norms='probes:s'")

    def draw(number: jax.Array, example_key: jax.Array) -> jax.Array:
        # Beside the keys of a method's own samples, which start from 0.
        probe = jax.random.fold_in(example_key, 2**31 - 1 - number)
        return jax.random.rademacher(probe, like.shape[1:], like.dtype)

    size = chunk_size or count
    total = jnp.zeros(linear.outputs.shape, linear.outputs.dtype)
    for start in range(0, count, size):
        numbers = jnp.arange(start, min(start + size, count))
        probes = jax.vmap(lambda i: jax.vmap(lambda k: draw(i, k))(keys))(numbers)
        total = total + (linear.transpose(probes) ** 2).sum(0)
    return total / count


def from_top(
    explainer: Explainer, inner: jax.Array, count: int, class_chunk_size: int | None
) -> jax.Array:
    """`n_k` of the classes with the largest `|r_k|`; for the others, their mean."""
    linear = explainer.linear
    count = min(count, inner.shape[1])
    largest = jax.lax.top_k(jnp.abs(inner), count)[1]
    cotangents = target_cotangents(largest, linear.outputs, linear.like)
    parts = explainer.fold(
        cotangents, class_chunk_size, lambda m: (jnp.sum(_flat(m) ** 2, axis=-1),)
    )
    exact = jnp.concatenate([squares for (squares,) in parts], axis=1)
    others = jnp.broadcast_to(exact.mean(-1, keepdims=True), inner.shape)
    return jnp.put_along_axis(others, largest, exact, axis=1, inplace=False)


def _flat(maps: jax.Array) -> jax.Array:
    return maps.reshape(*maps.shape[:2], -1)
