"""A linear explanation method as a map and its transpose, in bounded memory."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.explain.paths import Path
from introspect_jax.explain.targets import varying_like

LinearMap = Callable[[jax.Array], jax.Array]


def wait_for(after: jax.Array, values: jax.Array) -> jax.Array:
    """The same values, but not before `after` is known.

    Compilers would share passes between chunks, or take all of them first, and with
    them the memory that chunks are there to save; `optimization_barrier` is gone by the
    time they schedule. What is added is 0 (1 where `after` is not a number).
    """
    return values + jnp.isnan(after.ravel()[0]).astype(values.dtype)


@dataclasses.dataclass
class LinearExplainer:
    """`A c = P s sum_i m_i * J(x_i)^T c` and its transpose.

    Args:
      function: points `[n, batch, ...]` -> outputs `[n, batch, classes]`.
      path: the points, see `paths`.
      post: P, linear.
      like: the inputs, or features, `[batch, ...]`, in whose space gradients lie.
      chunk_size: points at once; None for all.
    """

    function: Callable[[jax.Array], jax.Array]
    path: Path
    post: LinearMap
    like: jax.Array
    chunk_size: int | None = None

    def __post_init__(self):
        self._whole = None
        if (self.chunk_size or self.path.count) >= self.path.count:
            # One forward pass, whose residuals serve the map and its transpose.
            self._whole = self._linearize(jnp.arange(self.path.count))
        outputs = jax.eval_shape(self.function, self.like[None])
        self.outputs = jax.ShapeDtypeStruct(outputs.shape[1:], outputs.dtype)

    def attribute(self, cotangents: jax.Array) -> jax.Array:
        """`A c` of cotangents `[m, batch, classes]`: `[m, batch, ...]`."""
        return jax.vmap(self.post)(self.moment(cotangents, 1))

    def moment(self, cotangents: jax.Array, power: int) -> jax.Array:
        """`s sum_i (m_i * J(x_i)^T c)^power`, without P, of `[m, batch, classes]`."""

        def part(pull: LinearMap, multipliers: jax.Array) -> jax.Array:
            def one(cotangent: jax.Array) -> jax.Array:
                shape = (len(multipliers), *cotangent.shape)
                return pull(jnp.broadcast_to(cotangent, shape))

            # A product and a sum over n would do, but XLA 0.10.2 compiles those to
            # wrong numbers on CPUs for m > 2.
            gradients = jax.vmap(one)(cotangents)
            return jnp.einsum("n...,mn...->m...", multipliers**power, gradients**power)

        shape = (len(cotangents), *self.like.shape)
        return self._over_points(part, shape, self.like.dtype, cotangents)

    def transpose(self, maps: jax.Array) -> jax.Array:
        """`A^T v` of maps `v [m, batch, ...]`: `[m, batch, classes]`."""
        back = jax.linear_transpose(self.post, self.like)
        raw = jax.vmap(lambda v: back(v)[0])(maps)

        def part(pull: LinearMap, multipliers: jax.Array) -> jax.Array:
            shape = (len(multipliers), *self.outputs.shape)
            cotangents = jnp.zeros(shape, self.outputs.dtype)
            push = jax.linear_transpose(pull, varying_like(self.like, cotangents))
            return jax.vmap(lambda v: push(multipliers * v)[0].sum(0))(raw)

        shape = (len(maps), *self.outputs.shape)
        return self._over_points(part, shape, self.outputs.dtype, raw)

    def _linearize(
        self, numbers: jax.Array, after: jax.Array | None = None
    ) -> tuple[LinearMap, jax.Array]:
        """Cotangents `[n, batch, classes]` -> gradients, and the multipliers."""
        if after is not None:
            numbers = wait_for(after, numbers)
        points, multipliers = jax.vmap(self.path.points)(numbers)
        _, vjp = jax.vjp(self.function, points)
        return lambda cotangents: vjp(cotangents)[0], multipliers

    def _over_points(
        self, part: Any, shape: tuple[int, ...], dtype: Any, given: jax.Array
    ) -> jax.Array:
        """`s` times the sum of `part` over chunks of points.

        In chunks nothing is kept from one to the next, nor between the map and its
        transpose: each makes its forward pass again, so memory does not grow with n.
        Unrolled on CPU, where convolutions inside loops are many times slower.
        """
        if self._whole is not None:
            return self.path.scale * part(*self._whole)
        count, size = self.path.count, self.chunk_size
        assert size is not None
        total = varying_like(self.like, jnp.zeros(shape, dtype))
        whole = count // size * size
        after = given
        if jax.default_backend() == "cpu":
            for start in range(0, whole, size):
                numbers = jnp.arange(start, start + size)
                total = total + part(*self._linearize(numbers, after))
                after = total
        else:
            total, _ = jax.lax.scan(
                lambda sums, numbers: (sums + part(*self._linearize(numbers)), None),
                total,
                jnp.arange(whole).reshape(-1, size),
            )
            after = total
        if whole < count:
            rest = jnp.arange(whole, count)
            total = total + part(*self._linearize(rest, after))
        return self.path.scale * total
