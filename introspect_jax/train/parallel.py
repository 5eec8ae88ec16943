"""Distributes a step over the devices.

`global`: the step is written for the whole batch and the compiler divides it.
`pmapped`: it is written for a replica, as for `jax.pmap`, and a fixed number of
replicas share the devices, so that the result does not depend on their number. Both are
a wrapper around the function of a part of the batch; nothing outside of this file knows
of them.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from introspect_jax import cpu
from introspect_jax.errors import UserError, unknown
from introspect_jax.train.devices import AXIS, make_mesh, sharing
from introspect_jax.train.parts import EXAMPLES, Batch, Part, mean_of

PyTree = Any
# `(state, batch, number of the part; None where there is but one) -> Part`
PartOf = Callable[[PyTree, Batch, Any], Part]
# `(rows of examples, what all of them share) -> rows of examples`
ByExample = Callable[[PyTree, PyTree], PyTree]


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


def check(config: ConfigDict) -> None:
    """Raises a UserError if `config.parallel` is invalid; takes the whole config."""
    parallel, batch = config.parallel, config.batch_size
    if parallel.mode not in _MODES:
        raise UserError(unknown("parallel.mode", parallel.mode, _MODES))
    if parallel.replicas < 1:
        raise UserError(
            f"parallel.replicas must be at least 1, got {parallel.replicas}"
        )
    if not parallel.watchdog_seconds > 0:
        raise UserError(
            "parallel.watchdog_seconds must be above 0, got "
            f"{parallel.watchdog_seconds}"
        )
    pmapped = parallel.mode == "pmapped"
    if pmapped and batch % parallel.replicas:
        raise UserError(
            f"batch_size must be a multiple of the {parallel.replicas} "
            f"parallel.replicas, got {batch}"
        )
    there = batch // parallel.replicas if pmapped else batch
    if config.accumulation_steps > there:
        raise UserError(
            f"accumulation_steps is {config.accumulation_steps}, more than the "
            f"{there} examples that there are"
            + (" for a replica" if pmapped else " in a batch")
        )


@dataclasses.dataclass(frozen=True)
class Global:
    """The whole batch as one part, which the compiler divides among the devices.

    Attributes:
      mesh: The devices.
      arguments: What a step needs in its batch beside the examples.
      divides: Not empty once `by_device` divided something of a traced step.
    """

    mesh: Mesh
    arguments: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    divides: list[bool] = dataclasses.field(default_factory=list)

    def shared(self, part_of: PartOf) -> Callable[[PyTree, Batch], Part]:
        """`(state, batch) -> Part` of the whole batch."""

        def whole(state: PyTree, batch: Batch) -> Part:
            with cpu.divided_among(self.mesh.size):
                return part_of(state, batch, None)

        return whole

    def by_device(self, function: ByExample) -> ByExample:
        """The same function, each device computing the rows of its own examples.

        For what the compiler does not divide: `jax.vmap` over several cotangents of a
        network folds them into the axis of the examples, cotangents first, and every
        device then computes all of it. Rows that the devices cannot share are left to
        the compiler.
        """
        if self.mesh.size == 1:
            return function
        whole, divided = PartitionSpec(), PartitionSpec(AXIS)

        def on_device(rows: PyTree, common: PyTree) -> PyTree:
            with cpu.divided_among(1):
                return function(rows, common)

        # Networks with loops would have to say what varies by device.
        shared = jax.shard_map(
            on_device,
            mesh=self.mesh,
            in_specs=(divided, whole),
            out_specs=divided,
            check_vma=False,
        )

        def by_rows(rows: PyTree, common: PyTree) -> PyTree:
            count = len(jax.tree.leaves(rows)[0])
            if count % self.mesh.size:
                return function(rows, common)
            self.divides.append(True)
            return shared(rows, common)

        return by_rows

    def settings(self) -> dict[str, Any]:
        """What the bits of a step depend on beside its config and the versions."""
        return {"devices": self.mesh.size} | self._machine()

    def _machine(self) -> dict[str, Any]:
        platform = self.mesh.devices.flat[0].platform
        return {"platform": platform, "fast_cpu": cpu.active}

    def flops(self, lowered: jax.stages.Lowered) -> float | None:
        """Those of a lowered step, all devices together, before any optimisation."""
        try:
            return (lowered.cost_analysis() or {}).get("flops")
        except NotImplementedError:
            return None  # the backend cannot count


class Replicas(Global):
    """A fixed number of replicas whose results are averaged."""

    def shared(self, part_of: PartOf) -> Callable[[PyTree, Batch], Part]:
        """Each device does its replicas; this is what `jax.pmap` is inside.

        `check_vma=False`: with it gradients of what every device holds would come out
        summed already.
        """
        on_device = over_replicas(
            part_of, int(self.arguments["turns"]) * self.mesh.size
        )
        whole, divided = PartitionSpec(), PartitionSpec(AXIS)

        def everywhere(state: PyTree, batch: Batch) -> Part:
            specs = {name: divided if name in EXAMPLES else whole for name in batch}
            return jax.shard_map(
                on_device,
                mesh=self.mesh,
                in_specs=(whole, specs),
                out_specs=whole,
                check_vma=False,
            )(state, batch)

        return everywhere

    def by_device(self, function: ByExample) -> ByExample:
        """The function: a replica is on one device."""
        return function

    def settings(self) -> dict[str, Any]:
        """Without the number of devices."""
        return self._machine()

    def flops(self, lowered: jax.stages.Lowered) -> None:
        """None: a loop would be counted as one turn."""
        del lowered


def choose_devices(config: ConfigDict, count: int = 0) -> list[jax.Device]:
    """Returns the devices of a run: all, or of cores that `cpu.switch_on` made devices
    of as many as can share its batches.

    Args:
      config: The whole config.
      count: Devices that the run was begun on, 0 if it begins; that many of the cores
        are taken again if there are so many.
    """
    if not cpu.virtual_devices:
        return jax.devices()
    sizes = [config.batch_size, config.eval_batch_size]
    if config.parallel.mode == "pmapped":
        sizes.append(config.parallel.replicas)
    return sharing(*sizes, count=count)


def make_parallel(config: ConfigDict, devices=None) -> Global:
    """Returns the devices and how they share a step.

    Args:
      config: The whole config.
      devices: Those to use, by default those of `choose_devices`.

    Raises:
      UserError: A batch or replicas that the devices cannot share.
    """
    mesh = make_mesh(
        {"batch_size": config.batch_size, "eval_batch_size": config.eval_batch_size},
        choose_devices(config) if devices is None else devices,
    )
    return _MODES[config.parallel.mode](config.parallel, mesh)


def _replicas(config: ConfigDict, mesh: Mesh) -> Replicas:
    if config.replicas % mesh.size:
        raise UserError(
            f"parallel.replicas must be a multiple of the {mesh.size} devices, got "
            f"{config.replicas}"
        )
    # An argument of the compiled step, see `over_replicas`.
    return Replicas(mesh, {"turns": np.asarray(config.replicas // mesh.size, np.int32)})


_MODES: dict[str, Callable[[ConfigDict, Mesh], Global]] = {
    "global": lambda config, mesh: Global(mesh),
    "pmapped": _replicas,
}


def over_replicas(part_of: PartOf, replicas: int) -> Callable[[PyTree, Batch], Part]:
    """`(state, batch) -> Part`, the mean over all replicas, for use on one device.

    A device does its share of the replicas one after the other, gathers those of the
    others, and adds all up in order. So that a replica gives the same bits wherever it
    runs, the compiler must neither know how many turns a device takes, which is why
    `batch["turns"]` is an array, nor mix a replica with what is around it.

    Args:
      part_of: `(state, batch of a replica, its number) -> Part`.
      replicas: Over all devices of the mesh.
    """

    def on_device(state, batch):
        local = replicas // jax.lax.axis_size(AXIS)
        rows = {
            name: batch[name].reshape(local, -1, *batch[name].shape[1:])
            for name in EXAMPLES
            if name in batch
        }
        common = {name: value for name, value in batch.items() if name not in rows}
        first = jax.lax.axis_index(AXIS) * local

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
            lambda leaf: jax.lax.all_gather(leaf, AXIS, tiled=True), parts
        )
        return jax.lax.optimization_barrier(
            mean_of(jax.lax.optimization_barrier(parts), replicas)
        )

    return on_device
