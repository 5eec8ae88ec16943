"""The jitted functions: one step of training, one batch of evaluation."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import Mesh

from introspect_jax.data.augment import augment, center_crop, normalize
from introspect_jax.evaluate import per_example
from introspect_jax.keys import stream_key
from introspect_jax.methods import Method
from introspect_jax.methods.average import running_average
from introspect_jax.train.parallel import replicated, split
from introspect_jax.train.state import TrainState

Batch = dict[str, Any]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config,
    *,
    num_classes: int,
    size: tuple[int, int],
    mesh: Mesh,
) -> Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]:
    """`train_step(state, batch) -> (state, metrics)`, jitted, the state donated.

    A batch is `{"seed": uint32, "index": int32 [batch], "constants": ...}`, the last of
    them `Method.constants()`, with either `"pool"`, the images and labels of the whole
    training split, or `"image"` uint8 `[batch, h, w, c]` and `"label"` int32 `[batch]`.
    The seed is an argument, so that runs that differ in it alone share one compiled
    program.

    Args:
      method: of `methods.make`.
      optimizer: of `make_optimizer`.
      schedule: step -> learning rate, for the metrics.
      config: the whole config; `data` and `average_decay` are read.
      num_classes: of the data.
      size: `(h, w)` that the network sees.
      mesh: the devices.
    """
    data, decay = config.data, config.average_decay

    def train_step(state: TrainState, batch: Batch):
        index, seed = batch["index"], batch["seed"]
        if "pool" in batch:
            images, labels = (array[index] for array in batch["pool"])
        else:
            images, labels = batch["image"], batch["label"]
        images, label_probs = augment(
            normalize(images, data.mean, data.std),
            jax.nn.one_hot(labels, num_classes),
            index,
            stream_key(seed, "augment", state.step),
            data.augment,
            size,
        )
        (loss, (model_state, method_state, metrics)), gradients = jax.value_and_grad(
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
            stream_key(seed, "method", state.step),
        )
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        average = state.average
        if average is not None:
            average = running_average(average, (params, model_state), decay, state.step)
        metrics = metrics | {
            "loss": loss,
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
            method_state=method_state,
        )
        return new_state, metrics

    everywhere = replicated(mesh)
    return jax.jit(train_step, donate_argnums=0, out_shardings=(everywhere, everywhere))


def make_eval_step(model, config, *, size: tuple[int, int], mesh: Mesh):
    """`eval_step(variables, images uint8, labels) -> {name: [batch]}`, jitted."""

    def eval_step(variables, images, labels):
        images = center_crop(normalize(images, config.data.mean, config.data.std), size)
        logits = model.apply(variables, images, train=False)
        return per_example(logits, labels)

    return jax.jit(eval_step, out_shardings=split(mesh))
