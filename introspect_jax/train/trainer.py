"""Builds everything that a run needs from its config; runs nothing."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any, cast

import flax.linen as nn
import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from introspect_jax import cpu, methods, models, optimizers
from introspect_jax.data import augment
from introspect_jax.data.batches import Order, padded_batches
from introspect_jax.data.preprocess import Preprocess, make_preprocess
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.explain.checks import check_independent
from introspect_jax.methods import Context, Method, Teacher
from introspect_jax.methods.teaching import untrained_teacher
from introspect_jax.models import make_logits_fn
from introspect_jax.models.protocol import with_constants
from introspect_jax.train.devices import at_hand, place, replicated
from introspect_jax.train.evaluator import Evaluator
from introspect_jax.train.loader import Loader
from introspect_jax.train.parallel import Global, make_parallel
from introspect_jax.train.parts import Batch
from introspect_jax.train.state import TrainState, deployed_variables, init_state
from introspect_jax.train.step import make_train_step

PyTree = Any
# Training images that a network's `prepare` sees, at most.
_PREPARED_FROM = 1024


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The parts of a run, as made by `build`.

    Attributes:
      config: As given.
      method: And its `model`.
      context: What the method was made from.
      optimizer: Of the method's parameters.
      loader: Makes batches.
      evaluator: Scores of a network on a split.
      parallel: The devices, and how they share a step.
      train_step: `(state, batch) -> (state, metrics)`, jitted, donates the state.
    """

    config: ConfigDict
    method: Method
    context: Context
    optimizer: optax.GradientTransformation
    loader: Loader
    evaluator: Evaluator
    parallel: Global
    train_step: Any  # a jitted function has `lower`, which no type says
    # Makes the same step without `Context.by_device` and without shardings.
    undivided_step: Callable[[], Any]

    def batches(self, constants: PyTree, start: int = 0) -> Iterator[Batch]:
        """Yields the batches of the steps from `start` to the last of the run."""
        return self.loader.batches(constants, start, self.config.total_steps)

    def init_state(self) -> TrainState:
        """Returns the state before the first step, on all devices.

        Raises:
          UserError: What the network prepares does not fit its constants.
        """
        everywhere = replicated(self.parallel.mesh)
        averaged = self.config.average_decay > 0
        init = jax.jit(
            lambda seed: init_state(
                self.method, self.optimizer, seed, averaged=averaged
            ),
            out_shardings=everywhere,
        )
        state = init(np.uint32(self.config.seed))
        if not models.offers(self.method.model, "prepare"):
            return state
        constants = self.method.model.prepare(self._some_inputs(_PREPARED_FROM))
        return place(
            with_constants(jax.device_get(state), constants), self.parallel.mesh
        )

    def abstract_state(self) -> TrainState:
        """Returns shapes, dtypes and shardings of the state."""
        return abstract_state(
            self.config, self.method, self.optimizer, self.parallel.mesh
        )

    def abstract_constants(self) -> PyTree:
        """Returns shapes and dtypes of `Method.constants`; needs no teacher."""
        context, teacher = self.context, None
        if context.teacher is not None:
            teacher = untrained_teacher(
                context.teacher, context.image_shape, context.num_classes
            )
        return jax.eval_shape(lambda: self.method.constants(teacher))

    def constants(self, teacher: Teacher | None) -> PyTree:
        """Returns `Method.constants`.

        Raises:
          UserError: The method learns from a teacher and there is none.
        """
        return self.method.constants(teacher)

    def compile(
        self, state: TrainState, batch: Batch
    ) -> tuple[Callable[..., Any], float | None]:
        """Returns the compiled training step and its FLOPs on all devices together, or
        None if they cannot be counted."""
        if cast(Any, jax.config).jax_disable_jit:
            return self.train_step, None
        lowered = self.train_step.lower(state, batch)
        method = self.config.method.get(self.config.method.name, {})
        loops = self.config.accumulation_steps > 1 or method.get("chunk_size", 0)
        if loops and jax.default_backend() != "cpu":
            # They are loops there, which are counted as one turn.
            return lowered.compile(), None
        counted = lowered
        if self.parallel.divides or cpu.active or jax.default_backend() != "cpu":
            counted = self._lower_to_count(state, batch) or lowered
        return lowered.compile(), self.parallel.flops(counted)

    def _lower_to_count(
        self, state: TrainState, batch: Batch
    ) -> jax.stages.Lowered | None:
        """Lowers the step for one CPU, plainly; None if this process has no CPU device.

        What `shard_map` divides would be counted for one device, convolutions that are
        faster on CPUs have more operations, and accelerators do not count at all.
        """
        try:
            host = jax.local_devices(backend="cpu")[0]
        except RuntimeError:  # JAX_PLATFORMS leaves it out
            return None
        shapes = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (state, batch)
        )
        with cpu.switched_off(), jax.default_device(host):
            return self.undivided_step().lower(*shapes)

    def check_independent(self, state: TrainState) -> None:
        """Raises a UserError if the network mixes the examples of a batch or its
        outputs cannot be computed."""
        if len(self.loader.source) < 2:
            return
        variables = at_hand(deployed_variables(self.method, state))
        logits_fn = jax.jit(make_logits_fn(self.method.model, variables))
        try:
            check_independent(logits_fn, self._some_inputs(8))
        except ValueError as error:
            raise UserError(
                f"{error} (model.name={self.config.model.name}, data.mean="
                f"{self.config.data.mean}, data.std={self.config.data.std})"
            ) from error

    def _some_inputs(self, count: int) -> jax.Array:
        """Returns the inputs of the first training images."""
        source = self.loader.source
        pixels, _ = source.take(np.arange(min(count, len(source))))
        return self.evaluator.preprocess(pixels)


def build(
    config: ConfigDict,
    dataset: Dataset,
    devices=None,
    *,
    teacher: nn.Module | None = None,
) -> Trainer:
    """Builds the parts of a run.

    Args:
      config: Validated.
      dataset: Of `data.load`.
      devices: By default those of `parallel.choose_devices`.
      teacher: The network of the teacher, of methods that have one.

    Raises:
      UserError: Parts that do not fit each other.
    """
    parallel = make_parallel(config, devices)
    preprocess = make_preprocess(config.data, dataset.image_shape)
    augment.check(config.data.augment, preprocess.size)
    examples = len(dataset.train)
    if examples < config.batch_size:
        raise UserError(
            f"batch_size is {config.batch_size}, more than the {examples} training "
            "examples"
        )
    streams = dataset.megabytes > config.data.device_megabytes
    order = Order(config.seed, examples, config.batch_size)
    context = make_context(
        config,
        dataset.num_classes,
        (*preprocess.size, dataset.image_shape[2]),
        examples,
        order=order,
        train_labels=None
        if streams
        else (lambda: dataset.train.take(np.arange(examples))[1]),
        train_images=lambda: _train_images(config, dataset, preprocess),
        teacher=teacher,
        by_device=parallel.by_device,
    )
    models.check_logits(context.model, context.image_shape, context.num_classes)
    method = methods.make(config.method, context)
    schedule = optimizers.make_schedule(config.optimizer, config.total_steps)
    optimizer = optimizers.make_optimizer(config.optimizer, schedule)
    threads = config.data.read_threads
    loader = Loader(
        dataset.train,
        dataset.image_shape,
        method.sampler or order,
        parallel.mesh,
        streams,
        threads,
        {"seed": np.asarray(config.seed, np.uint32), **parallel.arguments},
    )
    everywhere = replicated(parallel.mesh)

    def step_of(method: Method) -> Any:
        return make_train_step(
            method,
            optimizer,
            schedule,
            config,
            num_classes=dataset.num_classes,
            preprocess=preprocess,
            parallel=parallel,
            steps_per_epoch=order.steps_per_epoch,
            unit=len(loader.positions(0)) // config.batch_size,
        )

    evaluator = Evaluator(
        method.model, preprocess, parallel.mesh, config.eval_batch_size, threads
    )
    return Trainer(
        config,
        method,
        context,
        optimizer,
        loader,
        evaluator,
        parallel,
        cpu.jit(
            step_of(method), donate_argnums=0, out_shardings=(everywhere, everywhere)
        ),
        lambda: jax.jit(
            step_of(
                methods.make(
                    config.method, dataclasses.replace(context, by_device=lambda f: f)
                )
            )
        ),
    )


def _train_images(
    config: ConfigDict, dataset: Dataset, preprocess: Preprocess
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """`Context.train_images`."""
    for pixels, labels, count in padded_batches(
        dataset.train, config.eval_batch_size, threads=config.data.read_threads
    ):
        yield preprocess.crop(pixels[:count]), labels[:count]


def make_context(
    config: ConfigDict,
    num_classes: int,
    image_shape: tuple[int, int, int],
    num_examples: int,
    **given: Any,
) -> Context:
    """Returns the context that the method of a config is made from.

    Args:
      config: Validated.
      num_classes: Of the data.
      image_shape: `(h, w, c)` that the network sees.
      num_examples: In the training split.
      **given: More of `Context`, for training.
    """
    augmented = config.data.augment
    return Context(
        model=models.from_config(config.model, num_classes),
        num_classes=num_classes,
        image_shape=image_shape,
        total_steps=config.total_steps,
        steps_per_epoch=num_examples // config.batch_size,
        seed=config.seed,
        batch_size=config.batch_size,
        num_examples=num_examples,
        mixes_examples=bool(augmented.mixup or augmented.cutmix),
        **given,
    )


def abstract_state(
    config: ConfigDict, method: Method, optimizer: Any, mesh: Mesh
) -> TrainState:
    """Returns shapes, dtypes and shardings of the state of a run."""
    shapes = jax.eval_shape(
        lambda seed: init_state(
            method, optimizer, seed, averaged=config.average_decay > 0
        ),
        np.uint32(config.seed),
    )
    everywhere = replicated(mesh)
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere),
        shapes,
    )
