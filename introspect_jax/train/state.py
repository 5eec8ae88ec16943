"""The state of training."""

import hashlib
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from introspect_jax.keys import stream_key
from introspect_jax.methods import Method

PyTree = Any


@flax.struct.dataclass
class TrainState:
    """The state of a run. Together with the config it determines all later steps.

    Attributes:
      step: int32 scalar, steps taken.
      params: what is trained.
      model_state: batch statistics.
      opt_state: of the optimiser.
      average: exponential average of `params` and `model_state`, or None.
      method_state: what the method carries.
    """

    step: jax.Array
    params: PyTree
    model_state: PyTree
    opt_state: PyTree
    average: PyTree
    method_state: PyTree


def init_state(
    method: Method,
    optimizer: optax.GradientTransformation,
    seed: jax.Array | int,
    *,
    averaged: bool,
) -> TrainState:
    """The state before the first step, a function of the seed."""
    params, model_state, method_state = method.init(stream_key(seed, "init", 0))
    average = None
    if averaged:
        # Copied: a tree that holds a buffer twice cannot be donated.
        average = jax.tree.map(jnp.copy, (params, model_state))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state=model_state,
        opt_state=optimizer.init(params),
        average=average,
        method_state=method_state,
    )


def deployed_variables(method: Method, state: TrainState) -> PyTree:
    """Returns the variables that are evaluated: the average, if there is one."""
    params, model_state = state.average or (state.params, state.model_state)
    return method.predict(params, model_state, state.method_state)


def state_sha256(state: PyTree) -> str:
    """SHA-256 over path, dtype, shape and bytes of every leaf."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(jax.device_get(leaf))
        name = jax.tree_util.keystr(path)
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
