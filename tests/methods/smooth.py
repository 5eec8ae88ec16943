"""Float64 networks whose derivatives are known, or smooth enough for differences."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from harness import CLASSES, batch, make


class Linear(nn.Module):
    """`z = W^T x + b`."""

    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


class Smooth(nn.Module):
    """A hidden layer of tanh, after a batch normalisation if wanted."""

    norm: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.Dense(5)(x.reshape(len(x), -1))
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(CLASSES)(jnp.tanh(x))


SHAPE = (3, 3, 2)


def float64(tree):
    return jax.tree.map(lambda leaf: leaf.astype("f8"), tree)


def made(name, model, **options):
    """`(method, params, loss of params and batch, batch)`, float64; needs `x64`."""
    method = make(name, given={"model": model, "image_shape": SHAPE}, **options)
    params, state, carried = float64(method.init(jax.random.key(1)))
    given = batch(make("standard")) | {
        "image": jax.random.normal(jax.random.key(3), (8, *SHAPE), "f8")
    }
    given["label"] = given["label"].astype("f8")

    @jax.jit
    def loss(params, given=given):
        return method.loss(params, state, carried, given, 0, jax.random.key(2))

    return method, params, loss, given
