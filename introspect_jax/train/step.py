"""One training step as a pure function."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from ml_collections import ConfigDict

from introspect_jax.arrays import one_hot
from introspect_jax.data.augment import augment
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.errors import UserError
from introspect_jax.keys import stream_key
from introspect_jax.methods import BY_EXAMPLE, LAST_BATCH, Method
from introspect_jax.methods.average import running_average
from introspect_jax.models.protocol import is_constant
from introspect_jax.train.parallel import Global
from introspect_jax.train.parts import Batch, Part, micro_batches
from introspect_jax.train.state import TrainState

Step = Callable[[TrainState, Batch], tuple[TrainState, dict[str, jax.Array]]]


def make_train_step(
    method: Method,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    config: ConfigDict,
    *,
    num_classes: int,
    preprocess: Preprocess,
    parallel: Global,
    steps_per_epoch: int,
    unit: int = 1,
) -> Step:
    """`train_step(state, batch) -> (state, metrics)`, for `jax.jit`.

    A batch is `{"seed": uint32, "index": int32 [batch], "constants": ...}`, the last of
    them of `Method.constants`, with either `"pool"`, the images and labels of the whole
    training split, or `"image"` `[batch, h, w, c]` and `"label"` int32 `[batch]`, and
    with `parallel.arguments`. The seed is an argument, so that runs that differ in it
    alone share one compiled program.

    Args:
      method: Of `methods.make`.
      optimizer: Of `make_optimizer`.
      schedule: Step -> learning rate, for the metrics.
      config: The whole config; `accumulation_steps`, `data` and `average_decay` are
        read.
      num_classes: Of the data.
      preprocess: Of the data.
      parallel: How the devices share a step.
      steps_per_epoch: Of the training split.
      unit: Rows of a batch that stay together (`Method.sampler`).
    """

    def pieces(state: TrainState, batch: Batch, number: Any) -> Part:
        """A part, in as many pieces as gradients are accumulated over."""
        return micro_batches(
            lambda piece, n: _part(
                method,
                config,
                num_classes,
                preprocess,
                steps_per_epoch,
                state,
                piece,
                n,
            ),
            batch,
            config.accumulation_steps,
            unit,
            number,
        )

    whole = parallel.shared(pieces)

    def train_step(state: TrainState, batch: Batch):
        part = whole(state, batch)
        gradients, model_state, carried, metrics = part.mean
        changed = {n: state.method_state[n] + part.change[n] for n in part.change}
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        model_state, carried = _constants_of(
            (state.model_state, {n: state.method_state[n] for n in carried}),
            (model_state, carried),
        )
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


def _part(
    method: Method,
    config: ConfigDict,
    num_classes: int,
    preprocess: Preprocess,
    steps_per_epoch: int,
    state: TrainState,
    batch: Batch,
    number: Any,
) -> Part:
    """Returns the results of the examples in `batch`, part `number` of the step; the
    number is None if there is only one part."""
    index, seed = batch["index"], batch["seed"]
    if "pool" in batch:
        images, labels = (array[index] for array in batch["pool"])
    else:
        images, labels = batch["image"], batch["label"]
    images, label_probs = augment(
        preprocess.normalize(images),
        one_hot(labels, num_classes),
        index,
        stream_key(seed, "augment", state.step),
        config.data.augment,
        preprocess.size,
        flip_state=lambda: (
            stream_key(seed, "flip", 0),
            state.step // steps_per_epoch,
        ),
    )
    key = stream_key(seed, "method", state.step)
    if number is not None:
        key = jax.random.fold_in(key, number)
    examples = {"image": images, "label": label_probs, "index": index}
    (loss, (model_state, carried, metrics)), gradients = jax.value_and_grad(
        method.loss, has_aux=True
    )(
        state.params,
        state.model_state,
        state.method_state,
        examples | {"constants": batch["constants"]},
        state.step,
        key,
    )
    mean, change = _carried(method, state.method_state, carried, number)
    return Part((gradients, model_state, mean, metrics | {"loss": loss}), change)


def _carried(method: Method, before: Any, after: Any, number: Any) -> tuple[Any, Any]:
    """What a method carries: entries that are means over the parts of a step, and by
    how much those with a row for each example change.

    Raises:
      UserError: Entries of which the method does not say how they are combined, or
        that no parts can have.
    """
    if after.keys() != method.carries.keys():
        raise UserError(
            f"the method carries {sorted(after)}, and its `carries` says how to "
            f"combine {sorted(method.carries)}; name each entry of the method state "
            "there"
        )
    if number is None:
        return after, {}
    for name, kind in method.carries.items():
        if kind == LAST_BATCH:
            raise UserError(
                f"the method carries {name!r}, rows of the last batch, which cannot be "
                "taken in parts; use accumulation_steps=1 and parallel.mode=global"
            )
    kinds = method.carries
    mean = {name: after[name] for name in after if kinds[name] != BY_EXAMPLE}
    rows = [name for name in after if kinds[name] == BY_EXAMPLE]
    return mean, {name: after[name] - before[name] for name in rows}


def _constants_of(before: Any, after: Any) -> Any:
    """`after`, with the networks' constants as they were, to the bit: a mean over the
    parts of a step rounds."""
    return jax.tree_util.tree_map_with_path(
        lambda path, old, new: old if is_constant(path) else new, before, after
    )
