"""Selects the examples of each step and reads them."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from introspect_jax.data.sources import Source


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The positions `[count]` of an epoch, shuffled: a function of seed and epoch.

    NumPy promises that `RandomState` never changes, which its newer generators do not.
    """
    state = np.random.RandomState([seed % 2**32, seed // 2**32 % 2**32, epoch])
    return state.permutation(count)


class Order:
    """The positions of every training step, a pure function of seed and step.

    The remainder of an epoch that does not fill a batch is left out; it is another
    one in every epoch.
    """

    def __init__(self, seed: int, count: int, batch_size: int):
        self.seed, self.count, self.batch_size = seed, count, batch_size
        self.steps_per_epoch = count // batch_size
        self._cached: tuple[int, np.ndarray] | None = None

    def __call__(self, step: int) -> np.ndarray:
        """Positions `[batch_size]` of this step."""
        epoch, within = divmod(step, self.steps_per_epoch)
        cached = self._cached  # read once: reader threads share this object
        if cached is None or cached[0] != epoch:
            cached = (epoch, epoch_order(self.seed, epoch, self.count))
            self._cached = cached
        start = within * self.batch_size
        return cached[1][start : start + self.batch_size]


def stream(
    source: Source,
    positions: Callable[[int], np.ndarray],
    start: int,
    stop: int,
    *,
    threads: int = 4,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Images and labels of the batches `start` to `stop`, read ahead by grain.

    Args:
      source: to read from.
      positions: batch number -> positions `[batch]`.
      start: first batch, which costs nothing to jump to.
      stop: one past the last.
      threads: readers; 0 reads in the calling thread.

    Yields:
      Images `[batch, h, w, c]` and labels int32 `[batch]`, in order.
    """
    import grain

    batches = grain.MapDataset.range(start, stop).map(
        lambda number: source.take(positions(int(number)))
    )
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    yield from batches.to_iter_dataset(options)


def padded_batches(
    source: Source,
    batch_size: int,
    rows: np.ndarray | None = None,
    *,
    threads: int = 4,
) -> Iterator[tuple[np.ndarray, np.ndarray, int]]:
    """All examples in order, in batches of one size.

    Args:
      source: to read from.
      batch_size: of a whole batch.
      rows: those of each batch that are read; by default all.
      threads: readers; 0 reads in the calling thread.

    Yields:
      Images `[rows, h, w, c]`, labels int32 `[rows]` and how many examples of the
      whole batch count: the last is filled up with copies of its first example.
    """
    total = len(source)
    rows = np.arange(batch_size) if rows is None else rows

    def positions(number: int) -> np.ndarray:
        wanted = number * batch_size + rows
        return np.where(wanted < total, wanted, number * batch_size)

    count = -(-total // batch_size)
    # Nothing is gained by reading memory ahead.
    threads = 0 if source.in_memory else threads
    for number, (images, labels) in enumerate(
        stream(source, positions, 0, count, threads=threads)
    ):
        yield images, labels, min(batch_size, total - number * batch_size)


def in_batches(function: Callable[..., Any], size: int, *rows: Any) -> Any:
    """The results of a function of examples, computed in batches of one size.

    The last batch is filled with copies of the last example, so that one program serves
    all.

    Args:
      function: Called with as many rows of each array as a batch has; its results are
        trees of arrays with a row for each example.
      size: Examples of a batch, if there are as many.
      *rows: Arrays `[examples, ...]`.

    Returns:
      The results for all examples, in NumPy.
    """
    count = len(rows[0])
    size = min(count, size)
    parts = []
    for first in range(0, count, size):
        chosen = np.minimum(np.arange(first, first + size), count - 1)
        parts.append(jax.device_get(function(*(array[chosen] for array in rows))))
    return jax.tree.map(lambda *found: np.concatenate(found)[:count], *parts)
