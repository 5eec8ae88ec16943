"""What a training method is: a small record of pure functions.

Methods share one step and one loop; what sets them apart is in these functions alone.
How the methods that are not written yet fit without a special case anywhere else:

KD: `init` loads the teacher into the method state; `loss` adds the KL to its logits.
PS-KD: the method state is the memory `[2, examples, classes]`; `loss` gathers targets
    at `batch["index"]` from one half and scatters new probabilities into the other;
    the halves swap at `step % steps_per_epoch == 0`.
DLB: the method state is last step's logits of the second half of the batch; `sampler`
    puts those examples into the first half of the next.
DML: `params` are M networks, stacked; `loss` runs them under `vmap`; `predict` is the
    first.
ONE: `model` has branches and answers with their ensemble; `loss` asks for the branches.
CS-KD: `sampler` draws pairs of a class; `loss` compares the halves of the batch.

So the parameters are any tree (peers), the state that is carried is any tree (teacher,
memory), the batch says which examples it holds (`index`), and a sampler may replace
the order in which they are drawn.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any
# {"image": [batch, h, w, c] float32, "label": [batch, classes], "index": [batch]}
Batch = dict[str, jax.Array]
Init = Callable[[jax.Array], tuple[PyTree, PyTree, PyTree]]


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
      train_labels: int `[examples]` of the training split, or None where it streams.
      order: step -> positions `[batch]`, the shuffled order that a sampler replaces.
    """

    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    total_steps: int
    steps_per_epoch: int
    seed: int = 0
    batch_size: int = 1
    num_examples: int = 1
    train_labels: np.ndarray | None = None
    order: Callable[[int], np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method; the loop knows no more of it than this.

    Attributes:
      init: key -> `(params, model_state, method_state)`: what is trained, the batch
        statistics, and whatever else the method carries.
      loss: `(params, model_state, method_state, batch, step, key) ->
        (loss, (model_state, method_state, metrics))`, loss and metrics scalars, among
        them `accuracy`.
      predict: `(params, model_state, method_state) -> variables` of `model` as it is
        evaluated and deployed.
      model: the network that `predict` gives the variables of; its last layer is
        called `head`, whose weight rows the pictures show.
      sampler: `step -> positions [batch]` in the training split, in place of the
        shuffled order.
    """

    init: Init
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, PyTree, dict[str, jax.Array]]]]
    predict: Callable[[PyTree, PyTree, PyTree], PyTree]
    model: nn.Module
    sampler: Callable[[int], np.ndarray] | None = None


def init_network(context: Context) -> Init:
    """`Method.init` of methods that train one network and carry nothing."""

    def init(key):
        images = jnp.zeros((1, *context.image_shape), jnp.float32)
        variables = dict(context.model.init(key, images, train=True))
        return variables.pop("params"), variables, {}

    return init


def predict_network(
    params: PyTree, model_state: PyTree, method_state: PyTree
) -> PyTree:
    """`Method.predict` of methods that train one network."""
    del method_state
    return {"params": params, **model_state}


def forward(
    model: nn.Module, params: PyTree, model_state: PyTree, images: jax.Array
) -> tuple[jax.Array, PyTree]:
    """Logits `[batch, classes]` in train mode, and the updated batch statistics."""
    logits, updated = model.apply(
        {"params": params, **model_state},
        images,
        train=True,
        mutable=list(model_state),
    )
    return logits, updated


def accuracy(logits: jax.Array, label_probs: jax.Array) -> jax.Array:
    """Share of the batch whose largest output is its (largest) label, scalar."""
    return jnp.mean(jnp.argmax(logits, -1) == jnp.argmax(label_probs, -1))
