"""Devices: one mesh, the batch split over its only axis `data`.

Two modes. `global`: the step is written for the whole batch and the compiler divides
it. `pmapped`: the step is written for a replica, as for `jax.pmap`, and a fixed number
of replicas share the devices, so that the result does not depend on their number.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.train.parts import EXAMPLES, Batch, Part, mean_of

MODES = ("global", "pmapped")
PyTree = Any


def default_config() -> ConfigDict:
    """`config.parallel`.

    `replicas` are those of `pmapped`, whatever the number of devices, which must divide
    it. A BatchNorm sees the examples of its replica, there, and the whole batch in
    `global`.
    """
    return ConfigDict(
        {
            "mode": "global",
            "replicas": 8,
            # Of several processes each ends after so long without a step.
            "watchdog_seconds": 600.0,
        }
    )


def check(config: ConfigDict, batch_size: int) -> None:
    """Raises a UserError for what cannot be, whatever the devices."""
    if config.mode not in MODES:
        raise UserError(unknown("parallel.mode", config.mode, MODES))
    if config.replicas < 1:
        raise UserError(f"parallel.replicas must be at least 1, got {config.replicas}")
    if not config.watchdog_seconds > 0:
        raise UserError(
            f"parallel.watchdog_seconds must be above 0, got {config.watchdog_seconds}"
        )
    if config.mode == "pmapped" and batch_size % config.replicas:
        raise UserError(
            f"batch_size must be a multiple of the {config.replicas} "
            f"parallel.replicas, got {batch_size}"
        )


def make_mesh(batch_sizes: dict[str, int], devices=None, replicas: int = 0) -> Mesh:
    """A mesh over all devices.

    Args:
      batch_sizes: name of the config field -> value; each must split evenly.
      devices: those to use, by default all, of all processes.
      replicas: if not 0, these must split evenly too.

    Raises:
      UserError: a batch that the devices cannot share, or replicas.
    """
    devices = jax.devices() if devices is None else devices
    for name, size in batch_sizes.items():
        if size < 1 or size % len(devices):
            raise UserError(
                f"{name} must be a multiple of the {len(devices)} devices, got {size}"
            )
    if replicas % len(devices):
        raise UserError(
            f"parallel.replicas must be a multiple of the {len(devices)} devices, got "
            f"{replicas}"
        )
    # `Mesh`, not `jax.make_mesh`: its axes are automatic, so indexing just works.
    return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def rows_here(mesh: Mesh, count: int) -> np.ndarray:
    """Rows of an array of `count` that the devices of this process hold, in order."""
    here = split(mesh).addressable_devices_indices_map((count,)).values()
    taken = {index[0].indices(count)[:2] for index in here if index}
    return np.concatenate([np.arange(*bounds) for bounds in sorted(taken)])


def place(tree: PyTree, mesh: Mesh, *, rows: int | None = None) -> PyTree:
    """Arrays of this process on the devices of all.

    Args:
      tree: arrays: the same in every process, or those of `rows_here`.
      mesh: the devices.
      rows: if given, how many rows there are in all processes together; they are
        divided among the devices. Otherwise every device gets all of it.
    """
    sharding = replicated(mesh) if rows is None else split(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    if rows is not None:
        here = rows_here(mesh, rows)

    def made(array):
        array = np.asarray(array)
        if rows is None:
            return jax.make_array_from_callback(
                array.shape, sharding, lambda index: array[index]
            )

        def of_device(index):
            start, stop, _ = index[0].indices(rows)
            first = int(np.searchsorted(here, start))
            return array[first : first + stop - start]

        return jax.make_array_from_callback(
            (rows, *array.shape[1:]), sharding, of_device
        )

    return jax.tree.map(made, tree)


def at_hand(tree: PyTree) -> PyTree:
    """Arrays that every device holds, for work that one process does alone."""
    return tree if jax.process_count() == 1 else jax.device_get(tree)


def over_replicas(
    part_of: Callable[[PyTree, Batch, jax.Array], Part], replicas: int
) -> Callable[[PyTree, Batch], Part]:
    """`(state, batch) -> Part`, the mean over all replicas, for use on one device.

    A device does its share of the replicas one after the other, gathers those of the
    others, and adds all up in order. So that a replica gives the same bits wherever it
    runs, the compiler must neither know how many turns a device takes, which is why
    `batch["turns"]` is an array, nor mix a replica with what is around it.

    Args:
      part_of: `(state, batch of a replica, its number) -> Part`.
      replicas: over all devices of the axis `data`.
    """

    def on_device(state, batch):
        local = replicas // jax.lax.axis_size("data")
        rows = {
            name: batch[name].reshape(local, -1, *batch[name].shape[1:])
            for name in EXAMPLES
            if name in batch
        }
        common = {name: value for name, value in batch.items() if name not in rows}
        first = jax.lax.axis_index("data") * local

        def one(turn):
            mine = {name: leaf[turn] for name, leaf in rows.items()}
            given = jax.lax.optimization_barrier((state, common | mine, first + turn))
            return jax.lax.optimization_barrier(part_of(*given))

        def do(turn, found):
            return jax.tree.map(lambda a, new: a.at[turn].set(new), found, one(turn))

        shapes = jax.eval_shape(one, jnp.zeros((), jnp.int32))
        empty = jax.tree.map(lambda s: jnp.zeros((local, *s.shape), s.dtype), shapes)
        parts = jax.lax.fori_loop(0, batch["turns"], do, empty)
        parts = jax.tree.map(
            lambda leaf: jax.lax.all_gather(leaf, "data", tiled=True), parts
        )
        return mean_of(jax.lax.optimization_barrier(parts), replicas)

    return on_device


def on_devices(
    step: Callable[[PyTree, Batch], PyTree], mesh: Mesh
) -> Callable[[PyTree, Batch], PyTree]:
    """A step that is written for one device, with its share of the batch, on all.

    This is what `jax.pmap` is inside. `check_vma=False`: with it gradients of what
    every device holds would come out summed already.
    """
    whole, divided = PartitionSpec(), PartitionSpec("data")

    def everywhere(state, batch):
        specs = {name: divided if name in EXAMPLES else whole for name in batch}
        return jax.shard_map(
            step,
            mesh=mesh,
            in_specs=(whole, specs),
            out_specs=whole,
            check_vma=False,
        )(state, batch)

    return everywhere
