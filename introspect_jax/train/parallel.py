"""Devices: one mesh, the batch split over its only axis `data`."""

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from introspect_jax.errors import UserError


def make_mesh(batch_sizes: dict[str, int], devices=None) -> Mesh:
    """A mesh over all devices.

    Args:
      batch_sizes: name of the config field -> value; each must split evenly.
      devices: those to use, by default all.

    Raises:
      UserError: a batch that the devices cannot share.
    """
    devices = jax.devices() if devices is None else devices
    for name, size in batch_sizes.items():
        if size < 1 or size % len(devices):
            raise UserError(
                f"{name} must be a multiple of the {len(devices)} devices, got {size}"
            )
    # `Mesh`, not `jax.make_mesh`: its axes are automatic, so indexing just works.
    return Mesh(np.asarray(devices), ("data",))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds all of it."""
    return NamedSharding(mesh, PartitionSpec())


def split(mesh: Mesh) -> NamedSharding:
    """The first axis is divided among the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))
