"""Loads the batches of a run onto the devices."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from introspect_jax.data.batches import stream
from introspect_jax.data.sources import Source
from introspect_jax.train.devices import place, replicated, rows_here, split
from introspect_jax.train.parts import Batch

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Loader:
    """Yields the same examples in the same order, whether they are on the device or
    streamed.

    Attributes:
      source: The training split.
      image_shape: `(h, w, c)` of its images.
      positions: Step -> positions `[rows]` in it.
      mesh: The devices.
      streams: Whether images are read while training.
      threads: Readers of a stream.
      fixed: What every batch has beside its examples: the seed, and arguments of the
        step.
    """

    source: Source
    image_shape: tuple[int, int, int]
    positions: Callable[[int], np.ndarray]
    mesh: Mesh
    streams: bool
    threads: int
    fixed: dict[str, np.ndarray]

    def batches(self, constants: PyTree, start: int, stop: int) -> Iterator[Batch]:
        """Yields the batches of the steps from `start` to `stop`.

        Of several processes each reads only what its own devices will hold.

        Args:
          constants: Of `Method.constants`, for every batch.
          start: First step, which costs nothing to jump to.
          stop: One past the last.
        """
        fixed = place(self.fixed | {"constants": constants}, self.mesh)
        count = len(self.positions(start))
        here = rows_here(self.mesh, count)

        def indices(step: int) -> np.ndarray:
            return self.positions(step)[here].astype(np.int32)

        steps = range(start, stop)
        if not self.streams:
            pool = self._pool()
            for step in steps:
                index = place(indices(step), self.mesh, rows=count)
                yield fixed | {"index": index, "pool": pool}
            return
        read = stream(self.source, indices, start, stop, threads=self.threads)
        for step, (images, labels) in zip(steps, read, strict=True):
            rows = {"index": indices(step), "image": images, "label": labels}
            yield fixed | place(rows, self.mesh, rows=count)

    def abstract_batch(self, constants: PyTree) -> Batch:
        """Shapes, dtypes and shardings of what `batches` yields.

        Args:
          constants: Shapes and dtypes of those of `Method.constants`.
        """
        everywhere, divided = replicated(self.mesh), split(self.mesh)

        def same(leaf: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere)

        def shaped(sharding: Any, dtype: Any, *shape: int) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

        count, images = len(self.positions(0)), np.dtype(self.source.dtype)
        batch = jax.tree.map(same, self.fixed | {"constants": constants})
        batch["index"] = shaped(divided, jnp.int32, count)
        if self.streams:
            return batch | {
                "image": shaped(divided, images, count, *self.image_shape),
                "label": shaped(divided, jnp.int32, count),
            }
        held = len(self.source)
        pool = (
            shaped(everywhere, images, held, *self.image_shape),
            shaped(everywhere, jnp.int32, held),
        )
        return batch | {"pool": pool}

    def _pool(self) -> tuple[jax.Array, jax.Array]:
        """Images and labels of the training split, on every device."""
        count, mesh = len(self.source), self.mesh
        if jax.process_count() == 1:
            return place(self.source.take(np.arange(count)), mesh)
        # Each process reads its share, and the devices exchange them.
        padded = -(-count // mesh.size) * mesh.size
        here = np.minimum(rows_here(mesh, padded), count - 1)
        shares = place(self.source.take(here), mesh, rows=padded)
        whole = jax.jit(
            lambda arrays: jax.tree.map(lambda a: a[:count], arrays),
            out_shardings=replicated(mesh),
        )
        return whole(shares)
