"""The jitted functions: one step of training, one batch of evaluation."""

from collections.abc import Callable

import jax
import optax
from jax.sharding import Mesh

from introspect_jax.arrays import one_hot
from introspect_jax.data.augment import augment, center_crop, normalize
from introspect_jax.evaluate import per_example
from introspect_jax.keys import stream_key
from introspect_jax.methods import Method
from introspect_jax.methods.average import running_average
from introspect_jax.train.parallel import on_devices, over_replicas, replicated
from introspect_jax.train.parts import Batch, Part, micro_batches
from introspect_jax.train.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def on_mesh(step: Step, mode: str, mesh: Mesh) -> Step:
    """`step` of `make_train_step`, jitted for all devices, the state donated."""
    if mode == "pmapped":
        step = on_devices(step, mesh)
    everywhere = replicated(mesh)
    return jax.jit(step, donate_argnums=0, out_shardings=(everywhere, everywhere))


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config,
    *,
    num_classes: int,
    size: tuple[int, int],
) -> Step:
    """`train_step(state, batch) -> (state, metrics)`, for `on_mesh`.

    It is written for the whole batch; or, `pmapped`, for the share of one device.

    A batch is `{"seed": uint32, "index": int32 [batch], "constants": ...}`, the last of
    them `Method.constants()`, with either `"pool"`, the images and labels of the whole
    training split, or `"image"` uint8 `[batch, h, w, c]` and `"label"` int32 `[batch]`;
    `parallel.mode=pmapped` adds `"turns"`, the replicas of each device. The seed is an
    argument, so that runs that differ in it alone share one compiled program.

    Args:
      method: of `methods.make`.
      optimizer: of `make_optimizer`.
      schedule: step -> learning rate, for the metrics.
      config: the whole config; `accumulation_steps`, `batch_size`, `data`, `parallel`
        and `average_decay` are read.
      num_classes: of the data.
      size: `(h, w)` that the network sees.
    """
    data, pieces = config.data, config.accumulation_steps
    replicas = config.parallel.replicas if config.parallel.mode == "pmapped" else 1

    def part_of(state: TrainState, batch: Batch, number: jax.Array | int) -> Part:
        """What the examples of `batch`, part `number` of the step, say of it."""
        index, seed = batch["index"], batch["seed"]
        if "pool" in batch:
            images, labels = (array[index] for array in batch["pool"])
        else:
            images, labels = batch["image"], batch["label"]
        images, label_probs = augment(
            normalize(images, data.mean, data.std),
            one_hot(labels, num_classes),
            index,
            stream_key(seed, "augment", state.step),
            data.augment,
            size,
        )
        key = stream_key(seed, "method", state.step)
        if pieces * replicas > 1:
            key = jax.random.fold_in(key, number)
        (loss, (model_state, carried, metrics)), gradients = jax.value_and_grad(
            method.loss, has_aux=True
        )(
            state.params,
            state.model_state,
            state.method_state,
            {
                "image": images,
                "label": label_probs,
                "index": index,
                "constants": batch["constants"],
            },
            state.step,
            key,
        )
        changed = {}
        if pieces * replicas > 1:
            carried = dict(carried)
            for name in method.by_example:
                changed[name] = carried.pop(name) - state.method_state[name]
        metrics = metrics | {"loss": loss}
        return Part((gradients, model_state, carried, metrics), changed)

    def replica(state: TrainState, batch: Batch, number: jax.Array | int) -> Part:
        """The same, in as many pieces as gradients are accumulated over."""
        if pieces == 1:
            return part_of(state, batch, number)
        return micro_batches(
            lambda piece, n: part_of(state, piece, n),
            batch,
            pieces,
            unit=len(batch["index"]) * replicas // config.batch_size,
            first=number * pieces,
        )

    def train_step(state: TrainState, batch: Batch):
        if config.parallel.mode == "pmapped":
            part = over_replicas(replica, replicas)(state, batch)
        else:
            part = replica(state, batch, 0)
        gradients, model_state, carried, metrics = part.mean
        changed = {n: state.method_state[n] + part.change[n] for n in part.change}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = running_average(
                average, (params, model_state), config.average_decay, state.step
            )
        metrics = metrics | {
            "gradient_norm": optax.tree.norm(gradients),
            "state_norm": optax.tree.norm((params, model_state)),
            "learning_rate": schedule(state.step),
        }
        new_state = TrainState(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            average=average,
            method_state=carried | changed,
        )
        return new_state, metrics

    return train_step


def make_eval_step(model, config, *, size: tuple[int, int], mesh: Mesh):
    """`eval_step(variables, images uint8, labels) -> {name: [batch]}`, jitted.

    Every device, and so every process, has the result of all.
    """

    def eval_step(variables, images, labels):
        images = center_crop(normalize(images, config.data.mean, config.data.std), size)
        logits = model.apply(variables, images, train=False)
        return per_example(logits, labels)

    return jax.jit(eval_step, out_shardings=replicated(mesh))
