"""What a training method is: a small record of pure functions.

Methods share one step and one loop; what sets them apart is in these functions alone.
How the methods that are not written yet fit without a special case anywhere else:

| method | `init` | `loss` | `method_state` | `predict` | `sampler` |
| --- | --- | --- | --- | --- | --- |
| KD | also loads the teacher | KL to the teacher's logits | the teacher's variables | the student | |
| PS-KD | also the memory `[examples, classes]` | targets gathered at `batch["index"]` | memory; the step's probabilities scattered into its other half, halves swapped at `step % steps_per_epoch == 0` | | |
| DLB | zeros | the first half's logits against the carried ones | last step's logits of the second half | | half of a batch returns in the next |
| DML | `params` of M networks, stacked | M forwards under `vmap`, KL between peers | | the first peer | |
| ONE | one network of several branches | the sum over branches and their ensemble | | all branches (the ensemble) | |
| CS-KD | | first half of the batch against the second | | | pairs of one class |

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


@dataclasses.dataclass(frozen=True)
class Context:
    """What a method is built from, beside its own config.

    Attributes:
      model: the network, whose call takes `train`.
      num_classes: its outputs.
      image_shape: `(h, w, c)` that it sees.
      total_steps: of the run.
      steps_per_epoch: batches in an epoch.
      train_labels: int `[examples]` of the training split, or None where it streams.
    """

    model: nn.Module
    num_classes: int
    image_shape: tuple[int, int, int]
    total_steps: int
    steps_per_epoch: int
    train_labels: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Method:
    """A training method; the loop knows no more of it than this.

    Attributes:
      init: key -> `(params, model_state, method_state)`: what is trained, the batch
        statistics, and whatever else the method carries.
      loss: `(params, model_state, method_state, batch, step, key) ->
        (loss, (model_state, method_state, metrics))`, loss and metrics scalars.
      predict: `(params, model_state, method_state) -> variables` of `model` as it is
        evaluated and deployed.
      model: the network that `predict` gives the variables of.
      sampler: `step -> positions [batch]` in the training split, in place of the
        shuffled order.
    """

    init: Callable[[jax.Array], tuple[PyTree, PyTree, PyTree]]
    loss: Callable[..., tuple[jax.Array, tuple[PyTree, PyTree, dict[str, jax.Array]]]]
    predict: Callable[[PyTree, PyTree, PyTree], PyTree]
    model: nn.Module
    sampler: Callable[[int], np.ndarray] | None = None


def init_network(
    context: Context,
) -> Callable[[jax.Array], tuple[PyTree, PyTree, PyTree]]:
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
    return model.apply(
        {"params": params, **model_state},
        images,
        train=True,
        mutable=list(model_state),
    )


def accuracy(logits: jax.Array, label_probs: jax.Array) -> jax.Array:
    """Share of the batch whose largest output is its (largest) label, scalar."""
    return jnp.mean(jnp.argmax(logits, -1) == jnp.argmax(label_probs, -1))
