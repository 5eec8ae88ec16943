"""A batch in parts, and the combination of their results.

Parts are micro-batches, one after the other (gradient accumulation), or replicas, side
by side (`parallel`). Each sees the state from before the step; together they are the
mean of all, weighted by their numbers of examples.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

PyTree = Any
Batch = dict[str, Any]
# What has a row for each example; all else is the same for every part.
EXAMPLES = ("index", "image", "label")


class Part(NamedTuple):
    """Results of a part of the examples of a step.

    Attributes:
      mean: means over its examples: gradients, batch statistics, metrics, and what the
        method carries.
      change: by how much rows that belong to single examples have changed. An example
        is in one part only, so these are added.
    """

    mean: PyTree
    change: PyTree


def micro_batches(
    part_of: Callable[[Batch, jax.Array | int | None], Part],
    batch: Batch,
    count: int,
    unit: int,
    number: jax.Array | int | None = None,
) -> Part:
    """The same as `part_of(batch, number)`, in `count` pieces, one after the other.

    Every `count`-th example is in the same piece, so that devices which divide the
    batch divide every piece. Pieces may differ by one example. They are looped over on
    accelerators if they are alike, and written out otherwise: loops around
    convolutions are slow on CPUs. (`optax.microbatch` does the first of these only,
    without weights, and does not tell pieces apart, which their random keys need.)

    Args:
      part_of: `(batch, number) -> Part`; numbers tell the parts of a step apart.
      batch: see `make_train_step`.
      count: of the pieces.
      unit: rows of the batch that stay together.
      number: of this batch among the parts of the step; None if it is the only one.
    """
    if count == 1:
        return part_of(batch, number)
    first = 0 if number is None else number * count
    rows = {name: batch[name] for name in EXAMPLES if name in batch}
    common = {name: value for name, value in batch.items() if name not in rows}
    units = len(batch["index"]) // unit

    # [units, unit, ...]: what stays together is one entry of the first axis.
    grouped = {n: x.reshape(units, unit, *x.shape[1:]) for n, x in rows.items()}

    def flat(piece: Batch) -> Batch:
        return common | {n: x.reshape(-1, *x.shape[2:]) for n, x in piece.items()}

    if units % count == 0 and jax.default_backend() != "cpu":
        pieces = {
            n: jnp.moveaxis(x.reshape(units // count, count, *x.shape[1:]), 1, 0)
            for n, x in grouped.items()
        }

        def add(total: Part, numbered) -> tuple[Part, None]:
            number, piece = numbered
            return _add(total, part_of(flat(piece), first + number), 1 / count), None

        shapes = jax.eval_shape(
            lambda: part_of(flat({n: x[0] for n, x in pieces.items()}), first)
        )
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return jax.lax.scan(add, zeros, (jnp.arange(count), pieces))[0]

    total = None
    for number in range(count):
        piece = {n: x[number::count] for n, x in grouped.items()}
        part = part_of(flat(piece), first + number)
        weight = len(range(number, units, count)) / units
        total = _add(total, part, weight)
        # The next piece starts when this one is done: memory is for one at a time.
        total, grouped = jax.lax.optimization_barrier((total, grouped))
    assert total is not None
    return total


def _add(total: Part | None, part: Part, weight: float) -> Part:
    """Returns `total + part`, with weighted means."""
    mean = jax.tree.map(lambda leaf: leaf * weight, part.mean)
    if total is None:
        return Part(mean, part.change)
    add = jax.tree.map(jnp.add, total, Part(mean, part.change))
    return Part(*add)


def mean_of(parts: Part, count: int) -> Part:
    """Combines parts of one size that are stacked along a first axis of `count`.

    Added in order, one by one: sums of an axis are not in an order that is promised.
    """

    def added(leaf):
        total = leaf[0]
        for number in range(1, count):
            total = total + leaf[number]
        return total

    mean = jax.tree.map(lambda leaf: added(leaf) / count, parts.mean)
    return Part(mean, jax.tree.map(added, parts.change))
