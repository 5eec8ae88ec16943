"""Checks of a run before anything is compiled."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from introspect_jax.data.memory import describe, host_bytes
from introspect_jax.errors import UserError
from introspect_jax.train.devices import split
from introspect_jax.train.state import deployed_variables
from introspect_jax.train.trainer import Trainer


def check(trainer: Trainer) -> None:
    """Evaluates the shapes of the state, of a training step and of an evaluation.

    No array is made and no teacher is trained or read. The step is traced here, and
    what is traced is kept: compiling it does not trace it again.

    Raises:
      UserError: A batch or a state that the memory cannot hold.
    """
    config, loader, mesh = trainer.config, trainer.loader, trainer.parallel.mesh
    stored = loader.image_shape
    whole, one = _device_bytes(mesh)
    for field in ("batch_size", "eval_batch_size"):
        # As stored, before a crop takes less of it.
        pixels = math.prod(stored) * config[field]
        if 4 * pixels > whole:
            raise UserError(
                f"{field} is {config[field]}: so many images of {stored} take "
                f"{describe(4 * pixels)}, more than the memory of {describe(whole)}"
            )
    state = trainer.abstract_state()
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if taken > one:
        raise UserError(
            f"model.name={config.model.name} with method.name={config.method.name}: "
            f"what is trained and carried takes {describe(taken)}, more than the "
            f"memory of {describe(one)}; take a smaller network, or fewer peers"
        )
    batch = loader.abstract_batch(trainer.abstract_constants())
    jax.eval_shape(trainer.train_step, state, batch)
    divided, size = split(mesh), config.eval_batch_size
    images = np.dtype(loader.source.dtype)
    jax.eval_shape(
        trainer.evaluator.step,
        deployed_variables(trainer.method, state),
        jax.ShapeDtypeStruct((size, *stored), images, sharding=divided),
        jax.ShapeDtypeStruct((size,), jnp.int32, sharding=divided),
    )


def _device_bytes(mesh: Mesh) -> tuple[float, float]:
    """Returns the memory of all devices together, and of one."""
    # Those of other hosts tell nothing of themselves; they are like those here.
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    if not all("bytes_limit" in found for found in stats):
        return host_bytes(), host_bytes()  # CPUs share that of the machine
    least = min(float(found["bytes_limit"]) for found in stats)
    return least * mesh.size, least
