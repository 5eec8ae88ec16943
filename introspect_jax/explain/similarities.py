"""How explanations are compared: projection, dot product, cosine."""

import abc
import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.maps import Map, in_chunks
from introspect_jax.explain.problem import Problem
from introspect_jax.explain.targets import every_class
from introspect_jax.explain.tree import TreeNode

# `r_k = <a_k, a_y>`, and `n_k = |a_k|^2` where it is needed, each `[batch, classes]`.
Products = tuple[Array, Array | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The explanation of every class, to be compared with that of the label.

    Attributes:
      explanation: which one.
      problem: what is explained.
      explained: the explanation of it.
      labels: `[batch, classes]`, the labels as cotangents; a soft label is compared by
        the mixture of explanations.
      class_chunk_size: classes explained at once; None for all.
    """

    explanation: Explanation
    problem: Problem
    explained: Map
    labels: Float[Array, "batch classes"]
    class_chunk_size: int | None

    def inner_products(self) -> Float[Array, "batch classes"]:
        """`r_k = <a_k, a_y>`.

        With `A` the linear map of the explanation, `a_k = A e_k` and
        `r_k = (A^T A e_y)_k`: one map and its transpose give all classes.
        """
        if not self.explanation.linear:
            return self.all_classes()[0]
        return self.explained.transpose(self.explained(self.labels[None]))[0]

    def all_classes(self) -> tuple[Array, Array]:
        """`r_k` and `n_k = |a_k|^2`, from the explanations of all classes."""
        cotangents = every_class(self.explained)
        classes = cotangents.shape[1]
        whole = (self.class_chunk_size or classes) >= classes
        if whole and self.explanation.linear:
            maps = flat(
                jnp.moveaxis(self.explained(jnp.moveaxis(cotangents, 1, 0)), 0, 1)
            )
            label_map = jnp.einsum("bk,bkp->bp", self.labels, maps)
            return jnp.einsum("bkp,bp->bk", maps, label_map), jnp.sum(maps**2, axis=-1)
        label_map = flat(self.explained(self.labels[None]))[0]

        def products(maps: Array) -> tuple[Array, Array]:
            rows = flat(maps)
            return jnp.einsum("bkp,bp->bk", rows, label_map), jnp.sum(rows**2, axis=-1)

        parts = in_chunks(self.explained, cotangents, self.class_chunk_size, products)
        inner, squares = zip(*parts, strict=True)
        return jnp.concatenate(inner, axis=1), jnp.concatenate(squares, axis=1)


def flat(maps: Array) -> Float[Array, "m n size"]:
    """Maps `[m, n, ...]` as rows."""
    size = 1
    for side in maps.shape[2:]:
        size *= side
    return maps.reshape(*maps.shape[:2], size)


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity(TreeNode, abc.ABC):
    """How similar the explanation of every class is to that of the label.

    A subclass is a frozen dataclass that says which products of explanations it needs,
    and what it makes of them.
    """

    @property
    @abc.abstractmethod
    def passes(self) -> str:
        """What a linear explanation is asked for; any other explains all classes."""

    def products(self, comparison: Comparison) -> Products:
        """`r_k = <a_k, a_y>`, and `n_k = |a_k|^2` if `values` needs it."""
        return comparison.inner_products(), None

    @abc.abstractmethod
    def values(
        self, inner: Array, squares: Array | None, labels: Array
    ) -> Float[Array, "batch classes"]:
        """The similarities of the products; 0 where there is nothing to compare with.

        Args:
          inner: `r_k`, `[batch, classes]`.
          squares: `n_k`, `[batch, classes]`, as `products` returned it.
          labels: `[batch, classes]`.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Projection(Similarity):
    """`r_k / r_y` with `r_k = <a_k, a_y>`: 1 for the label itself.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import class_similarity
      >>> from introspect_jax.explain import Projection
      >>> kernel = jnp.array([[3.0, 4.0, -3.0], [4.0, 3.0, -4.0]])
      >>> class_similarity(lambda x: x @ kernel, jnp.ones((1, 2)), jnp.array([0]),
      ...                  similarity=Projection())
      Array([[ 1.  ,  0.96, -1.  ]], dtype=float32)
      >>> Projection().passes
      'one map and its transpose'
    """

    @property
    def passes(self) -> str:
        return "one map and its transpose"

    def values(
        self, inner: Array, squares: Array | None, labels: Array
    ) -> Float[Array, "batch classes"]:
        own, vanished = _own(inner, labels)
        return jnp.where(vanished, 0.0, inner / jnp.where(vanished, 1.0, own))


@dataclasses.dataclass(frozen=True, eq=False)
class Dot(Similarity):
    """`r_k = <a_k, a_y>`, in units of the explanation squared.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import class_similarity
      >>> from introspect_jax.explain import Dot
      >>> kernel = jnp.array([[3.0, 4.0, -3.0], [4.0, 3.0, -4.0]])
      >>> class_similarity(lambda x: x @ kernel, jnp.ones((1, 2)), jnp.array([0]),
      ...                  similarity=Dot())
      Array([[ 25.,  24., -25.]], dtype=float32)
    """

    @property
    def passes(self) -> str:
        return "one map and its transpose"

    def values(
        self, inner: Array, squares: Array | None, labels: Array
    ) -> Float[Array, "batch classes"]:
        _, vanished = _own(inner, labels)
        return jnp.where(vanished, 0.0, inner)


@dataclasses.dataclass(frozen=True, eq=False)
class Norms(TreeNode, abc.ABC):
    """How `Cosine` gets the norms of the explanations of all classes."""

    @property
    @abc.abstractmethod
    def passes(self) -> str:
        """What a linear explanation is asked for."""

    @abc.abstractmethod
    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        """`r_k` and `n_k = |a_k|^2`, each `[batch, classes]`, if it is linear."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exact(Norms):
    """The norms of the explanations of all K classes: K maps.

    Example:
      >>> from introspect_jax.explain import Cosine, Exact
      >>> Cosine(norms=Exact()).passes
      'all classes'
    """

    @property
    def passes(self) -> str:
        return "all classes"

    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        return comparison.all_classes()


@dataclasses.dataclass(frozen=True, eq=False)
class Cosine(Similarity):
    """`r_k / sqrt(n_k r_y)` with `n_k = |a_k|^2`: in [-1, 1], 1 for the label itself.

    Attributes:
      norms: how `n_k` is computed: `Exact()`, `LastLayer(features_fn, kernel)`,
        `Probes(count)` or `Top(count)`. An explanation that is not linear always
        explains all classes.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax import class_similarity
      >>> from introspect_jax.explain import Cosine, Probes
      >>> kernel = jnp.array([[3.0, 8.0, -3.0], [4.0, 6.0, -4.0]])
      >>> f, x, y = lambda x: x @ kernel, jnp.ones((1, 2)), jnp.array([0])
      >>> class_similarity(f, x, y, similarity=Cosine())
      Array([[ 1.  ,  0.96, -1.  ]], dtype=float32)
      >>> estimated = Cosine(norms=Probes(64))
      >>> class_similarity(f, x, y, similarity=estimated, key=jax.random.key(0)).shape
      (1, 3)
    """

    norms: Norms = dataclasses.field(default_factory=Exact)

    @property
    def passes(self) -> str:
        return self.norms.passes

    def products(self, comparison: Comparison) -> Products:
        if comparison.explanation.linear:
            return self.norms.products(comparison)
        return comparison.all_classes()

    def values(
        self, inner: Array, squares: Array | None, labels: Array
    ) -> Float[Array, "batch classes"]:
        assert squares is not None
        own, vanished = _own(inner, labels)
        limits = np.finfo(inner.dtype)
        vanished = vanished | (squares <= limits.tiny / limits.eps)
        # Root by root: the product would leave the range of float32.
        scale = jnp.sqrt(jnp.where(vanished, 1.0, squares)) * jnp.sqrt(
            jnp.where(vanished, 1.0, own)
        )
        return jnp.where(vanished, 0.0, inner / jnp.where(vanished, 1.0, scale))


def _own(inner: Array, labels: Array) -> tuple[Array, Array]:
    """`r_y` `[batch, 1]`, and whether it is 0 up to rounding.

    The threshold is relative, since the scale of gradients says nothing by itself. What
    is not a number has not vanished: it stays what it is.
    """
    own = jnp.sum(labels * inner, axis=-1, keepdims=True)
    limits = np.finfo(inner.dtype)
    largest = jnp.max(jnp.abs(inner), axis=-1, keepdims=True)
    return own, own <= jnp.maximum(limits.eps * largest, limits.tiny / limits.eps)
