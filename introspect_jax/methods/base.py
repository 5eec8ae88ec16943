"""The interface of training methods: a record of pure functions.

All methods share one training step and one loop and differ only in these functions. The
trained parameters are any tree (`dml`: several networks). The method state is carried
from step to step; it is a dict, and `carries` says how each entry is combined (`ps_kd`:
a memory of all examples). Constants are passed to every step and not saved (`kd`: the
variables of the teacher). `batch["index"]` identifies the examples of a batch, and a
sampler may add examples or replace them (`cs_kd`: another example of the same class).
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.models import init_variables
from introspect_jax.models.protocol import CONSTANTS, rng_streams

PyTree = Any
# {"image": [batch, h, w, c] float32, "label": [batch, classes], "index": [batch],
#  "constants": what `Method.constants` returned}
Batch = dict[str, Any]
Init = Callable[[jax.Array], tuple[PyTree, PyTree, PyTree]]
Metrics = dict[str, jax.Array | float]
Values = tuple[jax.Array, Metrics]
# `(rows, common) -> rows`, each `[batch, ...]`
ByExample = Callable[[PyTree, PyTree], PyTree]

# How an entry of the method state is combined where a batch is taken in parts (pieces
# of gradient accumulation, replicas):
MEAN = "mean"  # mean over the parts, weighted by their numbers of examples
BY_EXAMPLE = "by example"  # a row for each training example; a batch changes its own
LAST_BATCH = "last batch"  # rows of this batch; such a method is not taken in parts

# What every method logs, so that a table can tell what two of them differ in:
#   accuracy: share of the batch on which the deployed network is right.
#   loss_weights: sum of the weights of the terms of the loss. A factor T^2 is not
#     counted: it cancels the 1 / T^2 of the gradient.
#   target_entropy: of the soft target, nats.
#   target_true_mass: of the soft target, on the label.
#   degenerate: share of the batch whose soft target says nothing.
METRICS = (
    "accuracy",
    "loss_weights",
    "target_entropy",
    "target_true_mass",
    "degenerate",
)


@dataclasses.dataclass(frozen=True)
class Context:
    """The arguments of a method besides its config.

    Attributes:
      model: Network, called with `train`.
      num_classes: Number of outputs.
      image_shape: Shape `(h, w, c)` of its inputs.
      total_steps: Steps of the run.
      steps_per_epoch: Batches in an epoch.
      seed: Seed of the run, for samplers.
      batch_size: Examples in a batch.
      num_examples: Examples in the training split.
      train_labels: Reads the int labels `[examples]` of the training split; None if the
        split is streamed.
      train_images: Reads the training split once, in order and without augmentation:
        yields images `[n, h, w, c]` as read, cropped to `image_shape`, and int labels
        `[n]`. None where a method is only looked at.
      order: Function from step to the positions `[batch]` of its examples.
      mixes_examples: Whether the augmentation mixes examples (mixup, cutmix).
      teacher: Network of the teacher, for methods with `TEACHER`.
      by_device: Makes of a function `(rows, common) -> rows`, whose rows `[batch, ...]`
        belong to one example each, one that every device computes for its own examples.
        It is for what the compiler does not divide, see `parallel.Global.by_device`.
    """

    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    total_steps: int
    steps_per_epoch: int
    seed: int = 0
    batch_size: int = 1
    num_examples: int = 1
    train_labels: Callable[[], np.ndarray] | None = None
    train_images: Callable[[], Iterator[tuple[np.ndarray, np.ndarray]]] | None = None
    order: Callable[[int], np.ndarray] | None = None
    mixes_examples: bool = False
    teacher: nn.Module | None = None
    by_device: Callable[[ByExample], ByExample] = lambda function: function


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method.

    Attributes:
      init: Function `key -> (params, model_state, method_state)`: trained parameters,
        batch statistics, and the state of the method.
      loss: Function `(params, model_state, method_state, batch, step, key) ->
        (loss, (model_state, method_state, metrics))`. Loss and metrics are scalars; the
        metrics include `METRICS`.
      predict: Function `(params, model_state, method_state) -> variables` of `model`,
        for evaluation and deployment.
      model: Network of these variables.
      carries: Maps each entry of the method state to `MEAN`, `BY_EXAMPLE` or
        `LAST_BATCH`.
      sampler: Function from step to positions in the training split, which replaces the
        shuffled order; their number is a multiple of the batch size.
      constants: Called once before training with the teacher or None; returns
        `batch["constants"]`. It may depend only on the config, the seed, the data and
        files whose digest the run stores (`FILES`), so that a continued run gets the
        same constants.
    """

    init: Init
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, PyTree, dict[str, jax.Array]]]]
    predict: Callable[[PyTree, PyTree, PyTree], PyTree]
    model: nn.Module
    carries: Mapping[str, str] = dataclasses.field(default_factory=dict)
    sampler: Callable[[int], np.ndarray] | None = None
    constants: Callable[[Any], PyTree] = lambda teacher: {}


def one_network(
    context: Context,
    objective: Callable[[jax.Array, Batch, jax.Array], Values],
    **fields: Any,
) -> Method:
    """Returns a method that trains one network and has no state.

    Args:
      context: Context that `make` received.
      objective: Function `(logits, batch, key) -> (losses, metrics)`, each `[batch]`.
        Metrics may also be scalars; they include `METRICS` except the accuracy.
        Fold `batch["index"]` into the key for random numbers of each example.
      **fields: Further fields of `Method`.
    """

    def loss(params, model_state, method_state, batch, step, key):
        del step
        logits, model_state = forward(
            context.model, params, model_state, batch["image"], key
        )
        values = objective(logits, batch, key)
        value, metrics = averaged(logits, batch["label"], *values)
        return value, (model_state, method_state, metrics)

    return Method(init_network(context), loss, predict_network, context.model, **fields)


def init_network(context: Context, carried: Callable[[], PyTree] = dict) -> Init:
    """Returns `Method.init` for methods that train one network.

    Args:
      context: Context that `make` received.
      carried: Function that returns the initial method state; empty by default.
    """

    def init(key):
        params, model_state = init_variables(context.model, context.image_shape, key)
        return params, model_state, carried()

    return init


def predict_network(
    params: PyTree, model_state: PyTree, method_state: PyTree
) -> PyTree:
    """`Method.predict` for methods that train one network."""
    del method_state
    return {"params": params, **model_state}


def by_name(
    made: Mapping[str, tuple[PyTree, PyTree]],
) -> tuple[PyTree, PyTree, PyTree]:
    """What `Method.init` returns for several networks without a method state.

    Args:
      made: Name -> parameters and other variables of a network.
    """
    return (
        {name: params for name, (params, _) in made.items()},
        {name: state for name, (_, state) in made.items()},
        {},
    )


def predict_named(name: str) -> Callable[[PyTree, PyTree, PyTree], PyTree]:
    """`Method.predict` for methods that train several networks and deploy this one."""

    def predict(params: PyTree, model_state: PyTree, method_state: PyTree) -> PyTree:
        return predict_network(params[name], model_state[name], method_state)

    return predict


def forward(
    model: nn.Module,
    params: PyTree,
    model_state: PyTree,
    images: jax.Array,
    key: jax.Array,
    method: str | None = None,
) -> tuple[Any, PyTree]:
    """Returns logits `[batch, classes]` in train mode and the updated batch statistics.

    Args:
      model: Network.
      params: Its parameters.
      model_state: Its other variables.
      images: Images `[batch, h, w, c]`.
      key: Random key of this step and pass, for example for dropout.
      method: One of the network's optional methods, whose input `images` is and whose
        result is returned in place of the logits.
    """
    result, updated = model.apply(
        {"params": params, **model_state},
        images,
        train=True,
        mutable=[name for name in model_state if name != CONSTANTS],
        rngs=rng_streams(key),
        method=method,
    )
    return result, {**model_state, **updated}


def averaged(
    logits: jax.Array, label_probs: jax.Array, losses: jax.Array, metrics: Metrics
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Returns the scalar loss and metrics of a batch, including the accuracy.

    They are means over the labelled examples, or 0 if there are none.

    Args:
      logits: Logits `[batch, classes]` of the deployed network.
      label_probs: Labels `[batch, classes]`; a row of zeros has no label.
      losses: Losses `[batch]`.
      metrics: Metrics, each `[batch]` or a scalar.
    """
    hits = jnp.argmax(logits, -1) == jnp.argmax(label_probs, -1)
    loss = labelled_means(label_probs, {"loss": losses})["loss"]
    return loss, labelled_means(label_probs, metrics | {"accuracy": hits})


def labelled_means(label_probs: jax.Array, values: Metrics) -> dict[str, jax.Array]:
    """Returns means over the labelled examples, or 0 if there are none.

    Args:
      label_probs: Labels `[batch, classes]`; a row of zeros has no label.
      values: Values, each `[batch]` or a scalar, which is returned unchanged.
    """
    labelled = jnp.any(label_probs != 0, axis=-1)

    def mean(value: jax.Array | float) -> jax.Array:
        value = jnp.asarray(value)
        if value.ndim == 0:
            return value
        if not jnp.issubdtype(value.dtype, jnp.floating):
            value = value.astype(jnp.float32)
        total = jnp.sum(jnp.where(labelled, value, 0))
        count = jnp.sum(labelled, dtype=value.dtype)
        return total / jnp.maximum(count, 1)

    return {name: mean(value) for name, value in values.items()}
