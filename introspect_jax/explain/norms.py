"""Norms of the class explanations without explaining every class."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from introspect_jax.arrays import one_hot
from introspect_jax.explain.explanation import check_count
from introspect_jax.explain.maps import in_chunks, wait_for
from introspect_jax.explain.similarities import Comparison, Norms, flat
from introspect_jax.explain.targets import every_class


@dataclasses.dataclass(frozen=True, eq=False)
class LastLayer(Norms):
    """Exact norms from the explanations of the d features before a linear last layer.

    With the Gram matrix G of these explanations and the kernel's columns `w_k`,
    `<a_k, a_l> = w_k^T G w_l`. This requires d maps instead of K, for networks with
    fewer features than classes.

    Attributes:
      features_fn: Function from inputs to features `[batch, d]`, such that
        `logits_fn(x) = features_fn(x) @ kernel + bias`. Like `logits_fn`, it also
        receives the arrays of `batched`.
      kernel: Weights of the last layer, `[d, classes]`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import class_similarity
      >>> from introspect_jax.explain import Cosine, LastLayer
      >>> kernel = jnp.array([[3.0, 8.0, -3.0], [4.0, 6.0, -4.0]])
      >>> norms = LastLayer(features_fn=lambda x: 2 * x, kernel=kernel)
      >>> norms.passes
      'one map for each feature'
      >>> class_similarity(lambda x: 2 * x @ kernel, jnp.ones((1, 2)), jnp.array([0]),
      ...                  similarity=Cosine(norms=norms))
      Array([[ 1.  ,  0.96, -1.  ]], dtype=float32)
    """

    features_fn: Callable[..., Any]
    kernel: ArrayLike

    @property
    def passes(self) -> str:
        return "one map for each feature"

    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        problem = comparison.problem
        if comparison.explained.problem is not problem:
            kind = type(comparison.explanation).__name__
            raise ValueError(
                f"LastLayer needs an explanation of logits_fn, and {kind} explains a "
                "part of the network: use Exact(), Probes(count) or Top(count)"
            )
        features = problem.at(
            self.features_fn, problem.inputs.astype(problem.dtype), center=False
        )
        explained = comparison.explanation.bind(features)
        parts = in_chunks(
            explained, every_class(explained), comparison.class_chunk_size, flat
        )
        maps = jnp.concatenate(parts, axis=1)
        gram = jnp.einsum("bip,bjp->bij", maps, maps)
        kernel = jnp.asarray(self.kernel, gram.dtype)
        wanted = (gram.shape[1], comparison.labels.shape[1])
        if kernel.shape != wanted:
            raise ValueError(
                f"LastLayer: kernel must be {list(wanted)}, [features, classes], got "
                f"{list(kernel.shape)}"
            )
        if problem.center:
            kernel = kernel - kernel.mean(axis=-1, keepdims=True)
        weighted = jnp.einsum("bij,jk->bik", gram, kernel)
        inner = jnp.einsum("ik,bil,bl->bk", kernel, weighted, comparison.labels)
        # G is positive semidefinite, but rounding can make the norms negative.
        return inner, jnp.maximum(jnp.einsum("ik,bik->bk", kernel, weighted), 0.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Probes(Norms):
    """Stochastic estimates `n_k = mean_i (A^T v_i)_k^2` with random signs `v_i`.

    Requires `key`, and `count` transposes in addition to one map and its transpose. The
    relative standard deviation of an estimate is about `sqrt(2 / count)`.

    Attributes:
      count: Number of probes.

    Example:
      >>> from introspect_jax.explain import Probes
      >>> Probes(8).passes
      'one map, its transpose and 8 probes'
    """

    count: int

    def __post_init__(self) -> None:
        check_count(self, "count")

    @property
    def passes(self) -> str:
        return f"one map, its transpose and {self.count} probes"

    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        inner = comparison.inner_products()
        explained = comparison.explained
        keys = comparison.problem.example_keys("Probes")
        like = explained.like

        def draw(number: Array, example_key: Array) -> Array:
            # Distinct from the keys of the explanation's samples, which start at 0.
            probe = jax.random.fold_in(example_key, 2**31 - 1 - number)
            return jax.random.rademacher(probe, like.shape[1:], like.dtype)

        size = comparison.class_chunk_size or self.count
        total = jnp.zeros_like(inner)
        for start in range(0, self.count, size):
            numbers = jnp.arange(start, min(start + size, self.count))
            if start:
                numbers = wait_for(total, numbers)
            probes = jax.vmap(lambda i: jax.vmap(lambda k: draw(i, k))(keys))(numbers)
            total = total + (explained.transpose(probes) ** 2).sum(0)
        return inner, total / self.count


@dataclasses.dataclass(frozen=True, eq=False)
class Top(Norms):
    """Exact norms for the m classes with the largest `|r_k|`.

    All other classes get the mean of these norms, so their cosines are approximate.
    (The mean is taken of the squared norms.) Requires m maps in addition to one map and
    its transpose.

    Attributes:
      count: Number m of classes with exact norms.

    Example:
      >>> from introspect_jax.explain import Top
      >>> Top(3).passes
      'one map, its transpose and 3 classes'
    """

    count: int

    def __post_init__(self) -> None:
        check_count(self, "count")

    @property
    def passes(self) -> str:
        return f"one map, its transpose and {self.count} classes"

    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        inner = comparison.inner_products()
        classes = inner.shape[1]
        largest = jax.lax.top_k(jnp.abs(inner), min(self.count, classes))[1]
        rows = one_hot(largest, classes, inner.dtype)
        parts = in_chunks(
            comparison.explained,
            rows,
            comparison.class_chunk_size,
            lambda maps: jnp.sum(flat(maps) ** 2, axis=-1),
        )
        exact = jnp.concatenate(parts, axis=1)
        # A mask instead of an indexed update, which sharded arrays do not support.
        chosen = rows == 1
        squares = jnp.sum(jnp.where(chosen, exact[..., None], 0.0), axis=1)
        others = exact.mean(-1, keepdims=True)
        return inner, jnp.where(chosen.any(1), squares, others)
