"""Random keys: a function of seed, purpose and step, so that none is ever carried."""

import zlib

import jax
import numpy as np


def stream_key(
    seed: jax.Array | int | np.uint32, name: str, step: jax.Array | int
) -> jax.Array:
    """The random key of a purpose at a step."""
    key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(key, step)
