"""Explanations at fixed inputs: from output cotangents to maps, and back."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from introspect_jax.explain.problem import Problem, check_chunk, is_sharded, placed_like

ArrayFn = Callable[[Array], Array]
# i (an int, traced or not) -> `(x_i, m_i)`, both shaped like the inputs.
PointsFn = Callable[[Array], tuple[Array, Array]]
_Part = Callable[[ArrayFn, Array, Array], Array]


class Map:
    """An explanation at fixed inputs, as `Explanation.bind` returns it.

    Args:
      problem: what is explained.
      function: cotangents `[m, batch, classes]` -> maps `[m, batch, ...]`. Where it is
        linear and consists of operations that JAX can transpose, `transpose` follows.
    """

    def __init__(self, problem: Problem, function: ArrayFn) -> None:
        self.problem = problem
        self._function = function

    def __call__(
        self, cotangents: Float[Array, "m batch classes"]
    ) -> Float[Array, "m batch *map"]:
        """The maps of cotangents."""
        return self._function(cotangents)

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        """Shape `[batch, ...]`, dtype and sharding of one map."""
        return type_of(lambda c: self(c[None])[0], self.problem.outputs)

    def transpose(
        self, maps: Float[Array, "m batch *map"]
    ) -> Float[Array, "m batch classes"]:
        """The transposed map: maps -> cotangents.

        Raises:
          ValueError: it is not linear.
        """
        outputs = self.problem.outputs
        like = type_of(lambda c: jnp.broadcast_to(c, (len(maps), *c.shape)), outputs)
        return _transposed(self, like, maps)

    def then(self, post: ArrayFn) -> "Map":
        """This map, followed by `post`: maps `[batch, ...]` -> maps `[batch, ...]`."""
        return _Then(self, post)


class _Then(Map):
    """One map after another; transposed one by one, so each keeps its own way."""

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
      problem: whose outputs are differentiated; its `chunk_size` is how many points are
        taken at once.
      points: i -> `(x_i, m_i)`, point and multiplier, both shaped like the inputs.
      count: how many points there are.
      scale: s.
    """

    def __init__(
        self, problem: Problem, points: PointsFn, count: int = 1, scale: float = 1.0
    ) -> None:
        super().__init__(problem, lambda cotangents: self.moment(cotangents, 1))
        self._points, self._count, self._scale = points, count, scale
        self._whole = None
        if (problem.chunk_size or count) >= count:
            # One forward pass, whose residuals serve the map and its transpose.
            self._whole = self._linearize(jnp.arange(count))

    @property
    def like(self) -> jax.ShapeDtypeStruct:
        return type_of(lambda x: x, self.problem.inputs)

    def moment(
        self, cotangents: Float[Array, "m batch classes"], power: int
    ) -> Float[Array, "m batch *map"]:
        """`s sum_i (m_i * J(x_i)^T c)^power` of each cotangent."""

        def part(pull: ArrayFn, multipliers: Array, outputs: Array) -> Array:
            def one(cotangent: Array) -> Array:
                return pull(jnp.broadcast_to(cotangent[:, None], outputs.shape))

            # A product and a sum over n would do, but XLA 0.10.2 compiles those to
            # wrong numbers on CPUs for m > 2.
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
        """Cotangents `[batch, n, classes]` -> gradients; multipliers and outputs."""
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

        In chunks nothing is kept from one to the next, nor between the map and its
        transpose: each makes its forward pass again, so memory does not grow with n.
        Unrolled on CPU, where convolutions inside loops are many times slower.

        Args:
          part: `(pull, multipliers, outputs) -> array`.
          first: known before the first chunk.
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
    """What `reduce` makes of the maps `[batch, chunk, ...]` of each chunk in turn.

    Args:
      explained: the explanation.
      cotangents: of m targets.
      class_chunk_size: how many of m at once; None for all.
      reduce: maps to arrays; only these outlive a chunk.

    Raises:
      ValueError: a size below 1.
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
    """The same values, but not before `after` is known.

    Compilers would share passes between chunks, or take all of them first, and with
    them the memory that chunks are there to save; `optimization_barrier` is gone by the
    time they schedule. What is added is 0, whatever `after` holds; compilers do not
    know it, since 0 times a number that is not finite is not 0.
    """
    zero = jnp.sum(0 * jnp.nan_to_num(jax.lax.stop_gradient(after)))
    return values + zero.astype(values.dtype)


def _each(function: ArrayFn, values: Array) -> Array:
    """`function` of each entry of the first axis, all at once where that is possible.

    Over examples sharded on an explicit mesh it is not: a convolution of several
    batches at once folds them into one, with the examples in the second place.
    """
    results: Array
    if len(values) > 1 and is_sharded(values):
        results = jax.lax.map(function, values)
    else:
        results = jax.vmap(function)(values)
    return results


def type_of(function: ArrayFn, argument: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of what a function returns."""
    kind: jax.ShapeDtypeStruct = jax.eval_shape(function, argument)
    return kind


def _transposed(function: ArrayFn, like: jax.ShapeDtypeStruct, values: Array) -> Array:
    """`function^T values`, with `function` linear in an argument like `like`.

    Raises:
      ValueError: it is not linear.
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
