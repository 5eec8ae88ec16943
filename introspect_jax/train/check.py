"""What can be said of an experiment before anything is compiled."""

import math
from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.data.memory import describe, host_bytes
from introspect_jax.errors import UserError
from introspect_jax.train.experiment import Experiment
from introspect_jax.train.parallel import replicated, split
from introspect_jax.train.state import deployed_variables

PyTree = Any


def check(experiment: Experiment) -> None:
    """Evaluates the shapes of the state, of a training step and of an evaluation.

    No array is made and no teacher is trained or read. The step is traced here, and
    what is traced is kept: compiling it does not trace it again.

    Raises:
      UserError: a batch or a state that the memory cannot hold.
    """
    config = experiment.config
    stored = experiment.dataset.image_shape
    whole, one = _device_bytes(experiment)
    for field in ("batch_size", "eval_batch_size"):
        # As stored, before a crop takes less of it.
        pixels = math.prod(stored) * config[field]
        if 4 * pixels > whole:
            raise UserError(
                f"{field} is {config[field]}: so many images of {stored} take "
                f"{describe(4 * pixels)}, more than the memory of {describe(whole)}"
            )
    state = experiment.abstract_state()
    taken = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if taken > one:
        raise UserError(
            f"model.name={config.model.name} with method.name={config.method.name}: "
            f"what is trained and carried takes {describe(taken)}, more than the "
            f"memory of {describe(one)}; take a smaller network, or fewer peers"
        )
    jax.eval_shape(experiment.train_step, state, abstract_batch(experiment))
    divided = split(experiment.mesh)
    size = config.eval_batch_size
    jax.eval_shape(
        experiment.eval_step,
        deployed_variables(experiment.method, state),
        jax.ShapeDtypeStruct((size, *stored), jnp.uint8, sharding=divided),
        jax.ShapeDtypeStruct((size,), jnp.int32, sharding=divided),
    )


def abstract_batch(experiment: Experiment) -> PyTree:
    """Shapes, dtypes and shardings of what `Experiment.batches` yields."""
    divided, everywhere = split(experiment.mesh), replicated(experiment.mesh)
    stored = experiment.dataset.image_shape

    def given(sharding, dtype, *shape):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    count = len(experiment.positions(0))
    batch = {
        "seed": given(everywhere, jnp.uint32),
        "index": given(divided, jnp.int32, count),
        "constants": jax.tree.map(
            lambda leaf: given(everywhere, leaf.dtype, *leaf.shape),
            jax.eval_shape(experiment.abstract_constants),
        ),
    }
    if experiment.config.parallel.mode == "pmapped":
        batch["turns"] = given(everywhere, jnp.int32)
    if experiment.streams:
        return batch | {
            "image": given(divided, jnp.uint8, count, *stored),
            "label": given(divided, jnp.int32, count),
        }
    held = len(experiment.dataset.train)
    pool = (
        given(everywhere, jnp.uint8, held, *stored),
        given(everywhere, jnp.int32, held),
    )
    return batch | {"pool": pool}


def _device_bytes(experiment: Experiment) -> tuple[float, float]:
    """The memory of all devices together, and of one."""
    mesh = experiment.mesh
    # Those of other hosts tell nothing of themselves; they are like those here.
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    if not all("bytes_limit" in found for found in stats):
        return host_bytes(), host_bytes()  # CPUs share that of the machine
    least = min(float(found["bytes_limit"]) for found in stats)
    return least * mesh.size, least
