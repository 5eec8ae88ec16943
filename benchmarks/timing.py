"""Timing in turns, tables and records, for all benchmarks."""

import datetime
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from introspect_jax.data.sources import Dataset, array_source

# Load of the machine before the benchmark adds to it.
_LOAD = os.getloadavg()[0]


def seconds(function: Callable[[], Any]) -> float:
    """Seconds of one call, which must wait for its results."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def take_turns(
    sides: dict[str, Callable[[], Any]],
    repeats: int,
    *,
    most_seconds: float = float("inf"),
    least: int = 3,
) -> dict[str, list[float]]:
    """Seconds of each call of each side.

    Each turn calls every side once, in the opposite order of the turn before, so that
    slow changes of the machine's speed favour none of them.

    Args:
      sides: Name -> function, warmed up, which waits for its results.
      repeats: Number of turns.
      most_seconds: Limit after which no new turn starts, except for the first `least`.
      least: Number of turns that are taken in any case.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    names, began = list(sides), time.perf_counter()
    for turn in range(repeats):
        if turn >= least and time.perf_counter() - began > most_seconds:
            break
        for name in names if turn % 2 == 0 else reversed(names):
            taken[name].append(seconds(sides[name]))
    return taken


def median_ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over the turns of `above / below`."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def free_bytes() -> float:
    """Bytes that a program may use for temporaries."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return 0.9 * stats["bytes_limit"]
    return 0.6 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def random_dataset(classes: int, size: int, count: int) -> Dataset:
    """`count` images of `size` pixels and their labels, all random, in memory."""
    generator = np.random.RandomState(0)
    images = generator.randint(0, 256, (count, size, size, 3), dtype=np.uint8)
    source = array_source(images, generator.randint(classes, size=count))
    names = tuple(str(i) for i in range(classes))
    nothing = source.subset(np.arange(0))
    return Dataset(source, nothing, source, names, images.shape[1:])


def show(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table; columns whose name ends with `<` are aligned left."""
    table = Table(title=title)
    for column in columns:
        side = "left" if column.endswith("<") else "right"
        table.add_column(column.removesuffix("<"), justify=side, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:
        # Without a terminal the console would cut the table off after 80 columns.
        console.width = Console(width=1000).measure(table).maximum
    console.print(table)


def record(path: str | None, rows: list[dict[str, Any]], **more: Any) -> None:
    """Writes rows with the command, the date and the machine, if a path is given.

    Args:
      path: Path of the JSON file, or None.
      rows: The measurements.
      **more: Further entries, such as the network.
    """
    if not path:
        return
    script = os.path.basename(sys.argv[0])
    result = {
        "command": " ".join(["python", f"benchmarks/{script}", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "device": jax.devices()[0].device_kind,
        "host_cpus": os.cpu_count(),
        "load_average_before": _LOAD,
        "jax": jax.__version__,
        **more,
        "rows": rows,
    }
    pathlib.Path(path).write_text(json.dumps(result, indent=2) + "\n")
