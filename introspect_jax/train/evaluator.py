"""Exact scores of a network on a whole split."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh

from introspect_jax import cpu
from introspect_jax.data.batches import padded_batches
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.data.sources import Source
from introspect_jax.evaluate import per_example, summarize
from introspect_jax.models import make_logits_fn
from introspect_jax.train.devices import place, replicated, rows_here


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """Computes top-1, top-5, NLL and ECE: `evaluator(variables, source)`.

    Attributes:
      model: The network.
      preprocess: Pixels as read -> its inputs.
      mesh: The devices.
      batch_size: Images at a time.
      threads: Readers of images that are not in memory.
    """

    model: nn.Module
    preprocess: Preprocess
    mesh: Mesh
    batch_size: int
    threads: int

    @functools.cached_property
    def step(self) -> Any:
        """`(variables, images, labels) -> {name: [batch]}`, jitted.

        Every device, and so every process, has the result of all.
        """

        def step(variables, images, labels):
            logits_fn = make_logits_fn(self.model, variables)
            return per_example(logits_fn(self.preprocess(images)), labels)

        return cpu.jit(step, out_shardings=replicated(self.mesh))

    def __call__(self, variables: Any, source: Source) -> dict[str, float]:
        """Returns `top1`, `top5`, `nll` and `ece`."""
        here = rows_here(self.mesh, self.batch_size)
        found: list[tuple[dict[str, jax.Array], int]] = []
        for images, labels, count in padded_batches(
            source, self.batch_size, here, threads=self.threads
        ):
            rows = place((images, labels), self.mesh, rows=self.batch_size)
            found.append((self.step(variables, *rows), count))
        columns = jax.device_get([columns for columns, _ in found])
        counts = [count for _, count in found]
        return summarize(
            {
                name: np.concatenate(
                    [c[name][:n] for c, n in zip(columns, counts, strict=True)]
                )
                for name in columns[0]
            }
        )
