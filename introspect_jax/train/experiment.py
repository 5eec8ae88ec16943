"""From a config to everything that a run needs, and nothing run yet."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.sharding import Mesh
from ml_collections import ConfigDict

from introspect_jax import methods, models
from introspect_jax.data import augment
from introspect_jax.data.batches import Order, padded_batches, stream
from introspect_jax.data.sources import Dataset, Source
from introspect_jax.errors import UserError
from introspect_jax.evaluate import summarize
from introspect_jax.explain.checks import check_independent
from introspect_jax.methods import Context, Method, Teacher
from introspect_jax.methods.teaching import untrained_teacher
from introspect_jax.models import make_logits_fn
from introspect_jax.train import optimizer as optimizers
from introspect_jax.train.parallel import (
    at_hand,
    make_mesh,
    place,
    replicated,
    rows_here,
)
from introspect_jax.train.parts import Batch
from introspect_jax.train.state import TrainState, deployed_variables, init_state
from introspect_jax.train.step import make_eval_step, make_train_step, on_mesh


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What `build` made of a config.

    Attributes:
      config: as given.
      dataset: its splits; small ones are held in memory.
      size: `(h, w)` that the network sees.
      mesh: the devices.
      method: and its `model`.
      optimizer: of the method's parameters.
      train_step: `(state, batch) -> (state, metrics)`, jitted, donates the state.
      eval_step: `(variables, images, labels) -> {name: [batch]}`, jitted.
      abstract_constants: `method.constants` of an untrained teacher, for its shapes.
      positions: step -> positions in the training split.
      steps_per_epoch: full batches in the training split.
    """

    config: ConfigDict
    dataset: Dataset
    size: tuple[int, int]
    mesh: Mesh
    method: Method
    optimizer: optax.GradientTransformation
    train_step: Any  # a jitted function has `lower`, which no type says
    eval_step: Callable[..., dict[str, jax.Array]]
    abstract_constants: Callable[[], Any]
    positions: Callable[[int], np.ndarray]
    steps_per_epoch: int

    @property
    def model(self) -> nn.Module:
        return self.method.model

    @property
    def streams(self) -> bool:
        """Whether training images are read while training."""
        return streams(self.config, self.dataset)

    def init_state(self) -> TrainState:
        """The state before the first step, on all devices."""
        init = jax.jit(self._init, out_shardings=replicated(self.mesh))
        return init(np.uint32(self.config.seed))

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        everywhere = replicated(self.mesh)
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(
                leaf.shape, leaf.dtype, sharding=everywhere
            ),
            jax.eval_shape(self._init, np.uint32(self.config.seed)),
        )

    def _init(self, seed):
        return init_state(
            self.method,
            self.optimizer,
            seed,
            averaged=self.config.average_decay > 0,
        )

    def alone(self) -> "Experiment":
        """The same for work that this process does without the others."""
        if jax.process_count() == 1:
            return self
        return dataclasses.replace(self, mesh=make_mesh({}, jax.local_devices()))

    def check_independent(self, state: TrainState) -> None:
        """Raises a UserError for a network that mixes the examples of a batch, or that
        cannot answer for them."""
        if len(self.dataset.train) < 2:
            return
        variables = at_hand(deployed_variables(self.method, state))
        pixels, _ = self.dataset.train.take(np.arange(min(8, len(self.dataset.train))))
        logits_fn = jax.jit(make_logits_fn(self.model, variables))
        try:
            check_independent(logits_fn, self.inputs(pixels))
        except ValueError as error:
            raise UserError(
                f"{error} (model.name={self.config.model.name}, data.mean="
                f"{self.config.data.mean}, data.std={self.config.data.std})"
            ) from error

    def crop(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels `[n, h', w', c]` as read to the part `[n, h, w, c]` that is seen."""
        return augment.center_crop(pixels, self.size)

    def inputs(self, pixels: np.ndarray) -> jax.Array:
        """What the network is given for pixels as read, in evaluation."""
        data = self.config.data
        return augment.normalize(self.crop(pixels), data.mean, data.std)

    def batches(self, start: int) -> Iterator[Batch]:
        """The batches of the steps from `start` on, on the devices.

        The same examples in the same order whether they lie on the device or stream.
        Of several processes each reads only what its own devices will hold.
        """
        config, mesh = self.config, self.mesh
        fixed: Batch = {
            "seed": np.uint32(config.seed),
            "constants": self.method.constants(),
        }
        if config.parallel.mode == "pmapped":
            fixed["turns"] = np.int32(config.parallel.replicas // mesh.size)
        fixed = place(fixed, mesh)
        count = len(self.positions(start))
        here = rows_here(mesh, count)

        def indices(step: int) -> np.ndarray:
            return self.positions(step)[here].astype(np.int32)

        steps = range(start, config.total_steps)
        if not self.streams:
            pool = self._pool()
            for step in steps:
                index = place(indices(step), mesh, rows=count)
                yield fixed | {"index": index, "pool": pool}
            return
        read = stream(
            self.dataset.train,
            indices,
            start,
            config.total_steps,
            threads=config.data.read_threads,
        )
        for step, (images, labels) in zip(steps, read, strict=True):
            rows = {"index": indices(step), "image": images, "label": labels}
            yield fixed | place(rows, mesh, rows=count)

    def _pool(self) -> tuple[jax.Array, jax.Array]:
        """Images and labels of the training split, on every device."""
        train, mesh = self.dataset.train, self.mesh
        if jax.process_count() == 1:
            return place(train.take(np.arange(len(train))), mesh)
        # Each process reads its share, and the devices exchange them.
        padded = -(-len(train) // mesh.size) * mesh.size
        here = np.minimum(rows_here(mesh, padded), len(train) - 1)
        shares = place(train.take(here), mesh, rows=padded)
        whole = jax.jit(
            lambda arrays: jax.tree.map(lambda a: a[: len(train)], arrays),
            out_shardings=replicated(mesh),
        )
        return whole(shares)

    def compile(
        self, state: TrainState, batch: Batch
    ) -> tuple[Callable[..., Any], float | None]:
        """The compiled training step, and its FLOPs, all devices together.

        They are counted in the program as it was traced, before any optimisation. None
        where the backend cannot count, or would count a loop as one turn.
        """
        lowered = self.train_step.lower(state, batch)
        config = self.config
        pieces = config.accumulation_steps > 1
        chunks = config.method[config.method.name].get("chunk_size", 0)
        if config.parallel.mode == "pmapped" or (
            (chunks or pieces) and jax.default_backend() != "cpu"
        ):
            return lowered.compile(), None
        try:
            analysis = lowered.cost_analysis() or {}
        except NotImplementedError:
            analysis = {}
        return lowered.compile(), analysis.get("flops")

    def evaluate(self, variables: Any, source: Source) -> dict[str, float]:
        """`top1`, `top5`, `nll` and `ece` of every example of a split, exactly."""
        size = self.config.eval_batch_size
        here = rows_here(self.mesh, size)
        found: list[tuple[dict[str, jax.Array], int]] = []
        for images, labels, count in padded_batches(
            source, size, here, threads=self.config.data.read_threads
        ):
            images, labels = place((images, labels), self.mesh, rows=size)
            found.append((self.eval_step(variables, images, labels), count))
        columns = jax.device_get([columns for columns, _ in found])
        counts = [count for _, count in found]
        return summarize(
            {
                name: np.concatenate(
                    [c[name][:n] for c, n in zip(columns, counts, strict=True)]
                )
                for name in columns[0]
            }
        )


def build(
    config: ConfigDict,
    dataset: Dataset,
    devices=None,
    *,
    teacher: Teacher | None = None,
) -> Experiment:
    """Puts the parts of an experiment together.

    Args:
      config: validated.
      dataset: of `data.sources.load`.
      devices: by default all.
      teacher: of `teachers.find`; needed for training by methods that have one.

    Raises:
      UserError: parts that do not fit each other.
    """
    mesh = make_mesh(
        {"batch_size": config.batch_size, "eval_batch_size": config.eval_batch_size},
        devices,
        config.parallel.replicas if config.parallel.mode == "pmapped" else 0,
    )
    size = augment.check(config.data, dataset.image_shape)
    examples = len(dataset.train)
    if examples < config.batch_size:
        raise UserError(
            f"batch_size is {config.batch_size}, more than the {examples} training "
            "examples"
        )
    order = Order(config.seed, examples, config.batch_size)
    model = models.build(**config.model, num_classes=dataset.num_classes)
    image_shape = (*size, dataset.image_shape[2])
    context = Context(
        model=model,
        num_classes=dataset.num_classes,
        image_shape=image_shape,
        total_steps=config.total_steps,
        steps_per_epoch=order.steps_per_epoch,
        seed=config.seed,
        batch_size=config.batch_size,
        num_examples=examples,
        train_labels=None
        if streams(config, dataset)
        else (lambda: dataset.train.take(np.arange(examples))[1]),
        order=order,
        mixes_examples=bool(config.data.augment.mixup or config.data.augment.cutmix),
        teacher=teacher,
    )
    method = methods.make(config.method, context)
    for_shapes = method
    if teacher is not None:
        stand_in = untrained_teacher(teacher.model, image_shape, dataset.num_classes)
        context = dataclasses.replace(context, teacher=stand_in)
        for_shapes = methods.make(config.method, context)
    schedule = optimizers.make_schedule(config.optimizer, config.total_steps)
    optimizer = optimizers.make_optimizer(config.optimizer, schedule)
    step = make_train_step(
        method,
        optimizer,
        schedule,
        config,
        num_classes=dataset.num_classes,
        size=size,
    )
    return Experiment(
        config=config,
        dataset=dataset,
        size=size,
        mesh=mesh,
        method=method,
        optimizer=optimizer,
        train_step=on_mesh(step, config.parallel.mode, mesh),
        eval_step=make_eval_step(method.model, config, size=size, mesh=mesh),
        abstract_constants=for_shapes.constants,
        positions=method.sampler or order,
        steps_per_epoch=order.steps_per_epoch,
    )


def streams(config: ConfigDict, dataset: Dataset) -> bool:
    """Whether the training images are too many to lie on the device."""
    return dataset.megabytes > config.data.device_megabytes
