"""Similarities of explanations: projection, dot product and cosine."""

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

# `r_k = <a_k, a_y>`, and `n_k = |a_k|^2` if required, each `[batch, classes]`.
Products = tuple[Array, Array | None]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Comparison of the explanation of every class with that of the label.

    Attributes:
      explanation: Explanation with its hyperparameters.
      problem: Function and inputs to explain.
      explained: The explanation at these inputs.
      labels: Labels as cotangents, `[batch, classes]`. A soft label stands for the
        explanation of the mixture.
      class_chunk_size: Number of classes explained at once; None for all.
    """

    explanation: Explanation
    problem: Problem
    explained: Map
    labels: Float[Array, "batch classes"]
    class_chunk_size: int | None

    def inner_products(self) -> Float[Array, "batch classes"]:
        """Inner products `r_k = <a_k, a_y>`.

        With `A` the linear map of the explanation, `a_k = A e_k` and
        `r_k = (A^T A e_y)_k`: one map and its transpose give the products of all
        classes.
        """
        if not self.explanation.linear:
            return self.all_classes()[0]
        return self.explained.transpose(self.explained(self.labels[None]))[0]

    def all_classes(self) -> tuple[Array, Array]:
        """`r_k` and `n_k = |a_k|^2`, computed from the explanations of all classes."""
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
    """Flattens maps `[m, n, ...]` to rows `[m, n, size]`."""
    size = 1
    for side in maps.shape[2:]:
        size *= side
    return maps.reshape(*maps.shape[:2], size)


@dataclasses.dataclass(frozen=True, eq=False)
class Similarity(TreeNode, abc.ABC):
    """Similarity of the explanation of every class to that of the label.

    A subclass is a frozen dataclass that defines the required inner products of
    explanations and computes similarities from them.
    """

    @property
    @abc.abstractmethod
    def passes(self) -> str:
        """Cost for a linear explanation; any other explains all classes."""

    def products(self, comparison: Comparison) -> Products:
        """`r_k = <a_k, a_y>`, and `n_k = |a_k|^2` if `values` requires it."""
        return comparison.inner_products(), None

    @abc.abstractmethod
    def values(
        self, inner: Array, squares: Array | None, labels: Array
    ) -> Float[Array, "batch classes"]:
        """Similarities of inner products; 0 if the label's explanation vanishes.

        Args:
          inner: Inner products `r_k`, `[batch, classes]`.
          squares: Squared norms `n_k`, `[batch, classes]`, or None, as returned by
            `products`.
          labels: Labels, `[batch, classes]`.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Projection(Similarity):
    """`r_k / r_y` with `r_k = <a_k, a_y>`.

    The value is 1 for a hard label; other values may be negative or above 1.

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
    """Inner product `r_k = <a_k, a_y>`, in squared units of the explanation.

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
    """Computes the norms of the explanations of all classes for `Cosine`."""

    @property
    @abc.abstractmethod
    def passes(self) -> str:
        """Cost for a linear explanation."""

    @abc.abstractmethod
    def products(self, comparison: Comparison) -> tuple[Array, Array]:
        """`r_k` and `n_k = |a_k|^2` if it is linear, each `[batch, classes]`."""


@dataclasses.dataclass(frozen=True, eq=False)
class Exact(Norms):
    """Exact norms from the explanations of all K classes, i.e. K maps.

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
    """Cosine `r_k / sqrt(n_k r_y)` with `n_k = |a_k|^2`; 1 for a hard label.

    With exact norms the values lie in [-1, 1] (for soft labels, if the explanation is
    linear). With `Probes` or `Top` they may leave that range.

    Attributes:
      norms: Method to compute `n_k`: `Exact()`, `LastLayer(features_fn, kernel)`,
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
        # Separate roots: the product could overflow or underflow in float32.
        scale = jnp.sqrt(jnp.where(vanished, 1.0, squares)) * jnp.sqrt(
            jnp.where(vanished, 1.0, own)
        )
        return jnp.where(vanished, 0.0, inner / jnp.where(vanished, 1.0, scale))


def _own(inner: Array, labels: Array) -> tuple[Array, Array]:
    """`r_y` `[batch, 1]`, and whether it is 0 up to rounding.

    The threshold is relative, because the scale of gradients is arbitrary. NaN does not
    count as 0 and is propagated.
    """
    own = jnp.sum(labels * inner, axis=-1, keepdims=True)
    limits = np.finfo(inner.dtype)
    largest = jnp.max(jnp.abs(inner), axis=-1, keepdims=True)
    return own, own <= jnp.maximum(limits.eps * largest, limits.tiny / limits.eps)
