"""A mesh of devices with one axis, `data`, over which arrays are divided or
replicated."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from introspect_jax.errors import UserError

AXIS = "data"
PyTree = Any


def make_mesh(batch_sizes: dict[str, int], devices=None) -> Mesh:
    """Returns a mesh over all devices.

    Args:
      batch_sizes: Name of the config field -> value; each must split evenly.
      devices: Those to use, by default all, of all processes.

    Raises:
      UserError: A batch that the devices cannot share.
    """
    devices = jax.devices() if devices is None else devices
    for name, size in batch_sizes.items():
        if size < 1 or size % len(devices):
            raise UserError(
                f"{name} must be a multiple of the {len(devices)} devices, got {size}"
            )
    # `Mesh`, not `jax.make_mesh`: its axes are automatic, so indexing just works.
    return Mesh(np.asarray(devices), (AXIS,))


def sharing(*sizes: int, count: int = 0) -> list[jax.Device]:
    """Returns as many devices as can share batches of all these sizes evenly.

    Args:
      sizes: Each is to be a multiple of the number of devices.
      count: That number, if so many there are and they can; otherwise the largest.

    Every process has the same number of them, and at least one.
    """
    hosts = jax.process_count()
    fitting = [
        n
        for n in range(1, jax.local_device_count() + 1)
        if all(size % (n * hosts) == 0 for size in sizes)
    ]
    here = count // hosts if count % hosts == 0 else 0
    here = here if here in fitting else max(fitting, default=1)
    return [
        device
        for process in range(hosts)
        for device in [d for d in jax.devices() if d.process_index == process][:here]
    ]


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding in which every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """Sharding that divides the first axis among the devices."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def rows_here(mesh: Mesh, count: int) -> np.ndarray:
    """Returns the rows of an array of `count` that this process holds, in order."""
    here = split(mesh).addressable_devices_indices_map((count,)).values()
    taken = {index[0].indices(count)[:2] for index in here if index}
    return np.concatenate([np.arange(*bounds) for bounds in sorted(taken)])


def place(tree: PyTree, mesh: Mesh, *, rows: int | None = None) -> PyTree:
    """Places arrays of this process on the devices of all processes.

    Args:
      tree: Arrays: the same in every process, or those of `rows_here`.
      mesh: The devices.
      rows: If given, how many rows there are in all processes together; they are
        divided among the devices. Otherwise every device gets all of it.
    """
    sharding = replicated(mesh) if rows is None else split(mesh)
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)

    def made(array):
        array = np.asarray(array)
        shape = array.shape if rows is None else (rows, *array.shape[1:])
        return jax.make_array_from_process_local_data(sharding, array, shape)

    return jax.tree.map(made, tree)


def at_hand(tree: PyTree) -> PyTree:
    """Returns replicated arrays as arrays of this process alone."""
    return tree if jax.process_count() == 1 else jax.device_get(tree)
