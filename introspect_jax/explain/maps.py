"""Explanations at fixed inputs: maps of output cotangents, and their transposes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from introspect_jax.explain.placement import is_sharded, placed_like
from introspect_jax.explain.problem import Problem, check_chunk

ArrayFn = Callable[[Array], Array]
# Function from i (a possibly traced int) to `(x_i, m_i)`, both shaped like the inputs.
PointsFn = Callable[[Array], tuple[Array, Array]]
_Part = Callable[[ArrayFn, Array, Array], Array]


class Map:
    """An explanation at fixed inputs, as returned by `Explanation.bind`.

    Args:
      problem: Function and inputs to explain.
      function: Function from cotangents `[m, batch, classes]` to maps
        `[m, batch, ...]`. If it is linear and consists of operations that JAX can
        transpose, `transpose` is derived from it.
    """

    def __init__(self, problem: Problem, function: ArrayFn) -> None:
        self.problem = problem
        self._function = function

    def __call__(
        self, cotangents: Float[Array, "m batch classes"]
    ) -> Float[Array, "m batch *map"]:
        """Computes the maps of the cotangents."""
        return self._function(cotangents)

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """Shape `[batch, ...]`, dtype and sharding of one map."""
        return type_of(lambda c: self(c[None])[0], self.problem.outputs)

    def transpose(
        self, maps: Float[Array, "m batch *map"]
    ) -> Float[Array, "m batch classes"]:
        """Applies the transpose, from maps to cotangents.

        Raises:
          ValueError: The map is not linear.
        """
        outputs = self.problem.outputs
        like = type_of(lambda c: jnp.broadcast_to(c, (len(maps), *c.shape)), outputs)
        return _transposed(self, like, maps)

    def then(self, post: ArrayFn) -> "Map":
        """This map followed by `post`, a function of maps `[batch, ...]`."""
        return _Then(self, post)


class _Then(Map):
    """A map followed by a function; its transpose applies the transpose of each."""

    def __init__(self, first: Map, post: ArrayFn) -> None:
        super().__init__(first.problem, lambda c: jax.vmap(post)(first(c)))
        self._first, self._post = first, post

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        return type_of(self._post, self._first.like)

    def transpose(
        self, maps: Float[Array, "m batch *map"]
    ) -> Float[Array, "m batch classes"]:
        like = self._first.like
        before = jax.vmap(lambda v: _transposed(self._post, like, v))(maps)
        return self._first.transpose(before)


class GradientSum(Map):
    """`A c = s sum_i m_i * J(x_i)^T c` and its transpose, in bounded memory.

    Args:
      problem: Function to differentiate and its inputs; `chunk_size` is the number of
        points processed at once.
      points: Function from i to `(x_i, m_i)`, point and multiplier, both shaped like
        the inputs.
      count: Number of points.
      scale: Scale factor s.
    """

    def __init__(
        self, problem: Problem, points: PointsFn, count: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(problem, lambda cotangents: self.moment(cotangents, 1))
        self._points, self._count, self._scale = points, count, scale
        self._whole = None
        if (problem.chunk_size or count) >= count:
            # One forward pass, whose residuals are shared by the map and its transpose.
            self._whole = self._linearize(jnp.arange(count))

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        return type_of(lambda x: x, self.problem.inputs)

    def moment(
        self, cotangents: Float[Array, "m batch classes"], power: int
    ) -> Float[Array, "m batch *map"]:
        """`s sum_i (m_i * J(x_i)^T c)^power` for each cotangent."""

        def part(pull: ArrayFn, multipliers: Array, outputs: Array) -> Array:
            def one(cotangent: Array) -> Array:
                return pull(jnp.broadcast_to(cotangent[:, None], outputs.shape))

            # Not a product and a sum over n: XLA 0.10.2 compiles them to wrong results
            # on CPU for m > 2.
            gradients = _each(one, cotangents)
            return jnp.einsum(
                "bn...,mbn...->mb...", multipliers**power, gradients**power
            )

        return self._over_points(part, cotangents)

    def transpose(
        self, maps: Float[Array, "m batch *map"]
    ) -> Float[Array, "m batch classes"]:
        def part(pull: ArrayFn, multipliers: Array, outputs: Array) -> Array:
            like = type_of(lambda o: o, outputs)

            def one(v: Array) -> Array:
                return _transposed(pull, like, multipliers * v[:, None]).sum(1)

            return _each(one, maps)

        return self._over_points(part, maps)

    def _linearize(
        self, numbers: Array, after: Array | None = None
    ) -> tuple[ArrayFn, Array, Array]:
        """Returns the VJP function at some points, with their multipliers and outputs.

        The VJP maps cotangents `[batch, n, classes]` to gradients. If `after` is an
        array, the computation waits for it, see `wait_for`.
        """
        if after is not None:
            numbers = wait_for(after, numbers)
        points, multipliers = jax.vmap(self._points, out_axes=1)(numbers)
        outputs, vjp = jax.vjp(self.problem.logits_at, points)

        def pull(cotangents: Array) -> Array:
            gradients: Array = vjp(placed_like(outputs, cotangents))[0]
            return gradients

        return pull, placed_like(points, multipliers), outputs

    def _over_points(self, part: _Part, first: Array) -> Array:
        """`s` times the sum of `part` over chunks of points.

        With chunks, nothing is stored between chunks or between the map and its
        transpose: the forward pass is repeated, so memory does not grow with the number
        of points. The loop is unrolled on CPU, where convolutions inside loops are many
        times slower.

        Args:
          part: Function `(pull, multipliers, outputs) -> array`.
          first: Array that the first chunk waits for.
        """
        if self._whole is not None:
            return self._scale * part(*self._whole)
        count, size = self._count, self.problem.chunk_size
        assert size is not None
        total = part(*self._linearize(jnp.arange(size), first))
        done = size
        if jax.default_backend() != "cpu":
            whole = count // size * size
            total, _ = jax.lax.scan(
                lambda sums, numbers: (sums + part(*self._linearize(numbers)), None),
                total,
                jnp.arange(size, whole).reshape(-1, size),
            )
            done = whole
        for start in range(done, count, size):
            numbers = jnp.arange(start, min(start + size, count))
            total = total + part(*self._linearize(numbers, total))
        return self._scale * total


def in_chunks(
    explained: Map,
    cotangents: Float[Array, "batch m classes"],
    class_chunk_size: int | None,
    reduce: Callable[[Array], Any],
) -> list[Any]:
    """Applies `reduce` to the maps `[batch, chunk, ...]` of each chunk of targets.

    Args:
      explained: Explanation at fixed inputs.
      cotangents: Cotangents of m targets.
      class_chunk_size: Number of targets explained at once; None for all.
      reduce: Function from maps to arrays; only its results are kept.

    Raises:
      ValueError: A chunk size below 1.
    """
    check_chunk("class_chunk_size", class_chunk_size)
    size = class_chunk_size or max(cotangents.shape[1], 1)
    parts: list[Any] = []
    for start in range(0, cotangents.shape[1], size):
        chunk = jnp.moveaxis(cotangents[:, start : start + size], 1, 0)
        if parts:
            chunk = wait_for(jax.tree.leaves(parts[-1])[0], chunk)
        parts.append(reduce(jnp.moveaxis(explained(chunk), 0, 1)))
    return parts


def wait_for(after: Array, values: Array) -> Array:
    """Returns `values` with a data dependency on `after`, to delay later computations.

    Without it, compilers share passes between chunks or schedule all of them first,
    which uses the memory that chunking is meant to save; `optimization_barrier` is
    removed before scheduling. The added term is always 0, but compilers do not simplify
    it, because 0 times a non-finite number is not 0.
    """
    zero = jnp.sum(0 * jnp.nan_to_num(jax.lax.stop_gradient(after)))
    return values + zero.astype(values.dtype)


def _each(function: ArrayFn, values: Array) -> Array:
    """Applies `function` to each entry along the first axis, vectorised if possible.

    Examples sharded on an explicit mesh are processed one entry at a time: a vectorised
    convolution folds several batches into one, with the examples on the second axis.
    """
    results: Array
    if len(values) > 1 and is_sharded(values):
        results = jax.lax.map(function, values)
    else:
        results = jax.vmap(function)(values)
    return results


def type_of(function: ArrayFn, argument: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of the output of a function."""
    kind: jax.ShapeDtypeStruct = jax.eval_shape(function, argument)
    return kind


def _transposed(function: ArrayFn, like: jax.ShapeDtypeStruct, values: Array) -> Array:
    """`function^T values`, with `function` linear in an argument like `like`.

    Raises:
      ValueError: The function is not linear.
    """
    try:
        transposed: Array = jax.linear_transpose(function, like)(values)[0]
    except (AssertionError, NotImplementedError) as error:
        raise ValueError(
            "the backward pass cannot be transposed: it is not linear in the output "
            "cotangent, as in guided backpropagation by a custom_vjp; use the exact "
            "cosine, Cosine(norms=Exact()), which explains every class, or an "
            "Explanation that says linear = False"
        ) from error
    return transposed
