"""This package's side of `thousand_classes.py`."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from thousand_sides import EVERY_CLASS, GRADIENT, LOGITS, TRANSPOSE, Options, Step

from introspect_jax import cpu, pretrained
from introspect_jax.explain import class_similarity, explain_fn
from introspect_jax.models import make_logits_fn
from introspect_jax.train.devices import AXIS, make_mesh, replicated, sharing, split


def by_transpose(logits_fn: Callable, images: Any, labels: Any) -> jax.Array:
    """Inner products `[batch, classes]` with the gradient of the label, by one VJP and
    its transpose."""
    return class_similarity(logits_fn, images, labels, "gradient", "dot")


def of_classes(logits_fn: Callable, images: Any, own: Any, classes: Any) -> jax.Array:
    """The same of some classes, by their gradients.

    Args:
      logits_fn: Function from images to logits.
      images: `[batch, h, w, c]`.
      own: Gradients of the labels, shaped like the images.
      classes: Ints `[m]`; -1 has a gradient of zeros.
    """
    targets = jnp.broadcast_to(classes, (len(images), len(classes)))
    return jnp.einsum("bk...,b...->bk", explain_fn(logits_fn, images, targets), own)


def chunks(classes: int, size: int) -> np.ndarray:
    """Numbers of classes `[chunks, size]`, the last of them filled with -1."""
    numbers = np.full(-(-classes // size) * size, -1)
    numbers[:classes] = np.arange(classes)
    return numbers.reshape(-1, size)


class Ours:
    """The network and the images, on the devices."""

    def __init__(self, options: Options) -> None:
        from efficientnet_lite import weights_file
        from photographs import read

        self.options = options
        self.net = pretrained.load(weights_file(), image_size=options.size)
        self.images = self.net.preprocess(read(options.size)[: options.batch])
        self.labels = jnp.argmax(cpu.jit(self.net.logits_fn)(self.images), axis=-1)

    def step(self, way: str) -> Step:
        """A step, compiled."""
        if way == EVERY_CLASS:
            return self._every_class()
        functions = {
            TRANSPOSE: by_transpose,
            GRADIENT: explain_fn,
            LOGITS: lambda logits_fn, images, labels: logits_fn(images),
        }
        mesh = make_mesh({}, sharing(self.options.batch))
        arguments = jax.device_put((self.images, self.labels), split(mesh))
        program, costs = self._compile(functions[way], mesh, *arguments)
        return Step(lambda: program(*arguments), np.asarray, costs)

    def _every_class(self) -> Step:
        """One program explains a chunk of classes, which the devices divide.

        `explain_fn(..., "all", class_chunk_size=...)` in one program would compile the
        network once for each chunk, since loops are unrolled on CPUs, and keep the
        explanations of all classes.
        """
        mesh = make_mesh({}, sharing(self.options.chunk))
        images, labels = jax.device_put((self.images, self.labels), replicated(mesh))
        parts = jax.device_put(
            list(chunks(self.options.classes, self.options.chunk)), split(mesh)
        )

        def divided(logits_fn: Callable, *arguments: Any) -> jax.Array:
            return jax.shard_map(
                functools.partial(of_classes, logits_fn),
                mesh=mesh,
                in_specs=(PartitionSpec(), PartitionSpec(), PartitionSpec(AXIS)),
                out_specs=PartitionSpec(None, AXIS),
                check_vma=False,
            )(*arguments)

        gradient, costs_of_own = self._compile(explain_fn, mesh, images, labels)
        own = gradient(images, labels)
        program, costs = self._compile(divided, mesh, images, own, parts[0])
        costs["flops"] = costs_of_own["flops"] + len(parts) * costs["flops"]

        def run() -> jax.Array:
            own = gradient(images, labels)
            found = [program(images, own, part) for part in parts]
            return jnp.concatenate(found, axis=1)[:, : self.options.classes]

        jax.block_until_ready(program(images, own, parts[0]))  # warm-up
        return Step(run, np.asarray, costs)

    def _compile(
        self, function: Callable, mesh: Mesh, *arguments: Any
    ) -> tuple[Callable, dict[str, float]]:
        """A program of `(logits_fn, *arguments)`, and its costs on all devices."""
        variables = jax.device_put(self.net.variables, replicated(mesh))

        def run(variables: Any, *arguments: Any) -> jax.Array:
            return function(make_logits_fn(self.net.model, variables), *arguments)

        program = cpu.jit(run).lower(variables, *arguments).compile()
        of_device = {
            "flops": program.cost_analysis()["flops"],
            "temp_bytes": program.memory_analysis().temp_size_in_bytes,
        }
        costs = {name: mesh.size * value for name, value in of_device.items()}
        costs["devices"] = mesh.size
        return functools.partial(program, variables), costs
