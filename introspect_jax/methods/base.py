"""What a training method is: a small record of pure functions.

Methods share one step and one loop; what sets them apart is in these functions alone.
What is trained is any tree (`dml`: several networks), what is carried from step to step
is a dict whose entries say how they are combined (`ps_kd`: a memory of all examples),
and what never changes (`kd`: a teacher's variables) is given to every step without
being saved with it. The batch says which examples it holds (`index`), and a sampler may
add examples to it or replace them (`cs_kd`: another of the class of each).

How methods that are not written yet fit without a special case anywhere else:

Born-Again Networks: `kd` whose teacher is the run of the generation before.
DKD: two terms of the divergence that `kd` has; its test holds the identity.
DLB: the method state is last step's logits of the second half of the batch
    (`LAST_BATCH`); `sampler` puts those examples into the first half of the next.
ONE, Be Your Own Teacher: `model` has branches and answers with their ensemble or the
    last; `loss` asks for the branches.
Attention transfer: `loss` asks both networks for their `maps`.
"""

import dataclasses
from collections.abc import Callable, Mapping
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
    """What a method is built from, beside its own config.

    Attributes:
      model: the network, whose call takes `train`.
      num_classes: its outputs.
      image_shape: `(h, w, c)` that it sees.
      total_steps: of the run.
      steps_per_epoch: batches in an epoch.
      seed: of the run, for samplers.
      batch_size: examples in a batch.
      num_examples: in the training split.
      train_labels: reads int `[examples]` of the training split; None where it streams.
      order: step -> positions `[batch]`, the shuffled order that a sampler replaces.
      mixes_examples: whether the augmentation mixes examples (mixup, cutmix).
      teacher: the network of the teacher, of methods that say `TEACHER`.
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
    order: Callable[[int], np.ndarray] | None = None
    mixes_examples: bool = False
    teacher: nn.Module | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method; the loop knows no more of it than this.

    Attributes:
      init: key -> `(params, model_state, method_state)`: what is trained, the batch
        statistics, and whatever else the method carries.
      loss: `(params, model_state, method_state, batch, step, key) ->
        (loss, (model_state, method_state, metrics))`, loss and metrics scalars, among
        them `METRICS`.
      predict: `(params, model_state, method_state) -> variables` of `model` as it is
        evaluated and deployed.
      model: the network that `predict` gives the variables of.
      carries: entry of the method state -> `MEAN`, `BY_EXAMPLE` or `LAST_BATCH`.
      sampler: `step -> positions` in the training split, in place of the shuffled
        order; a multiple of the batch size.
      constants: called once before training, with the teacher or None; what the loss
        finds in `batch["constants"]`. A function of config, seed and files that the run
        keeps the digest of, so that a continued run gets the same.
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
    """The method that trains one network and carries nothing.

    Args:
      context: of `make`.
      objective: `(logits, batch, key) -> (losses, metrics)`, `[batch]` each; metrics
        may be scalars, and have all of `METRICS` but the accuracy.
      **fields: more of `Method`.
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
    """`Method.init` of methods that train one network.

    Args:
      context: of `make`.
      carried: makes the method state at the start; nothing by default.
    """

    def init(key):
        params, model_state = init_variables(context.model, context.image_shape, key)
        return params, model_state, carried()

    return init


def predict_network(
    params: PyTree, model_state: PyTree, method_state: PyTree
) -> PyTree:
    """`Method.predict` of methods that train one network."""
    del method_state
    return {"params": params, **model_state}


def forward(
    model: nn.Module,
    params: PyTree,
    model_state: PyTree,
    images: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, PyTree]:
    """Logits `[batch, classes]` in train mode, and the updated batch statistics.

    Args:
      model: the network.
      params: its parameters.
      model_state: its other variables.
      images: `[batch, h, w, c]`.
      key: of this step and pass, for dropout and the like.
    """
    logits, updated = model.apply(
        {"params": params, **model_state},
        images,
        train=True,
        mutable=[name for name in model_state if name != CONSTANTS],
        rngs=rng_streams(key),
    )
    return logits, {**model_state, **updated}


def averaged(
    logits: jax.Array, label_probs: jax.Array, losses: jax.Array, metrics: Metrics
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The loss and the metrics of a batch, scalars, the accuracy among them.

    Means over the labelled examples; 0 where there is none.

    Args:
      logits: `[batch, classes]` of the network that is deployed.
      label_probs: `[batch, classes]`; a row of zeros is an example without a label.
      losses: `[batch]`.
      metrics: each `[batch]` or a scalar.
    """
    hits = jnp.argmax(logits, -1) == jnp.argmax(label_probs, -1)
    loss = labelled_means(label_probs, {"loss": losses})["loss"]
    return loss, labelled_means(label_probs, metrics | {"accuracy": hits})


def labelled_means(label_probs: jax.Array, values: Metrics) -> dict[str, jax.Array]:
    """Means over the labelled examples, 0 where there is none; scalars stay.

    Args:
      label_probs: `[batch, classes]`; a row of zeros is an example without a label.
      values: each `[batch]` or a scalar.
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
