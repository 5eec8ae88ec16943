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
    """Computes the scores of `summarize`: `evaluator(variables, source)`.

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
        """`(variables, images, labels) -> {name: [batch, ...]}`, jitted.

        Statistics, and the logits and labels they are of: one program for all, because
        a second takes as long to compile as many evaluations. Every device, and so
        every process, has the result of all.
        """

        def step(variables, images, labels):
            logits_fn = make_logits_fn(self.model, variables)
            logits = logits_fn(self.preprocess(images))
            statistics = per_example(logits, labels)
            return statistics, {"logits": logits, "label": labels}

        return cpu.jit(step, out_shardings=replicated(self.mesh))

    def __call__(self, variables: Any, source: Source) -> dict[str, float]:
        """Returns the scores of `summarize`."""
        return summarize(self.examples(variables, source))

    def examples(
        self, variables: Any, source: Source, *, logits: bool = False
    ) -> dict[str, np.ndarray]:
        """Returns the statistics of `per_example` of every example, in order.

        Args:
          variables: Of the network.
          source: A split with at least one example.
          logits: Whether `logits` (`[examples, classes]`) and `label` are returned too.
        """
        here = rows_here(self.mesh, self.batch_size)
        found: list[tuple[dict[str, jax.Array], int]] = []
        for images, labels, count in padded_batches(
            source, self.batch_size, here, threads=self.threads
        ):
            rows = place((images, labels), self.mesh, rows=self.batch_size)
            statistics, outputs = self.step(variables, *rows)
            found.append((statistics | outputs if logits else statistics, count))
            if logits and len(found) > 1:
                # Logits of a whole split may be too much for a device.
                found[-2] = jax.device_get(found[-2])
        columns = jax.device_get([columns for columns, _ in found])
        counts = [count for _, count in found]
        return {
            name: np.concatenate(
                [c[name][:n] for c, n in zip(columns, counts, strict=True)]
            )
            for name in columns[0]
        }
