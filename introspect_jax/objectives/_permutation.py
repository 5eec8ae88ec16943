"""Shuffles of the entries of a target."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Integer, Key, Real, UInt32

from introspect_jax.arrays import UNLABELLED, Labels, concrete, is_integer, wide
from introspect_jax.errors import unknown
from introspect_jax.objectives._checks import describe, matrix

PERMUTATIONS = ("fresh", "fixed")


def permute(
    probs: Real[ArrayLike, "batch classes"],
    movable: Bool[ArrayLike, "batch classes"],
    keys: Key[Array, " batch"] | UInt32[Array, "batch words"],
) -> Float[Array, "batch classes"]:
    """Shuffles the movable entries of each row among themselves.

    Args:
      probs: `[batch, classes]`.
      movable: bool `[batch, classes]`.
      keys: random keys `[batch]`.

    Raises:
      ValueError: shapes that differ.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import permute
      >>> keys = jax.random.split(jax.random.key(0), 1)
      >>> probs = jnp.array([[0.7, 0.2, 0.1]])
      >>> permute(probs, probs < 0.5, keys)[0, 0].round(1).item()
      0.7
    """
    rows = wide(matrix("probs", probs, (None, None)))
    masks = matrix("movable", movable, (len(rows), rows.shape[1])).astype(bool)
    if keys.shape[:1] != rows.shape[:1]:
        raise ValueError(f"keys must be [{len(rows)}], got {describe(keys)}")

    def one(row: jax.Array, mask: jax.Array, key: jax.Array) -> jax.Array:
        draws = jnp.where(mask, jax.random.uniform(key, row.shape), jnp.inf)
        # Both orders list the movable first; the rest, in order, stays where it is.
        shuffled = jnp.argsort(draws, stable=True)
        positions = jnp.argsort(~mask, stable=True)
        return jnp.zeros_like(row).at[positions].set(row[shuffled])

    return jax.vmap(one)(rows, masks, keys)


def permutation_keys(
    kind: str,
    *,
    step_key: Key[Array, ""] | UInt32[Array, " words"],
    fixed_key: Key[Array, ""] | UInt32[Array, " words"],
    indices: Integer[ArrayLike, " batch"],
    labels: Labels,
) -> Key[Array, " batch"] | UInt32[Array, "batch words"]:
    """Random keys `[batch]` for `component`.

    Args:
      kind: `"fresh"`: another shuffle for every example and step; `"fixed"`: one for
        every class, the same for the whole run.
      step_key: of this step.
      fixed_key: of the run.
      indices: ints `[batch]`, positions of the examples in the training split.
      labels: ints `[batch]` of any integer type, or probabilities `[batch, classes]`,
        whose largest counts. Ignored examples share a key.

    Raises:
      ValueError: another kind, class numbers below -1 where they are known, or labels
        or indices of another shape.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from introspect_jax.objectives.components import permutation_keys
      >>> keys = permutation_keys(
      ...     "fixed",
      ...     step_key=jax.random.key(0),
      ...     fixed_key=jax.random.key(1),
      ...     indices=jnp.arange(3),
      ...     labels=jnp.array([4, 2, 4]),
      ... )
      >>> keys.shape, bool(keys[0] == keys[2]), bool(keys[0] == keys[1])
      ((3,), True, False)
    """
    if kind not in PERMUTATIONS:
        raise ValueError(unknown("permutation", kind, PERMUTATIONS))
    positions = jnp.asarray(indices)
    if positions.ndim != 1 or not is_integer(positions):
        raise ValueError(f"indices must be ints [batch], got {describe(positions)}")
    numbers = _class_numbers(labels, len(positions))
    fold = jax.vmap(jax.random.fold_in, in_axes=(None, 0))
    # `fold_in` takes 32 bits. Narrower signed types are widened with their sign first.
    if kind == "fresh":
        return fold(step_key, _words(positions))
    return fold(fixed_key, _words(numbers))


def _class_numbers(labels: Labels, batch: int) -> jax.Array:
    """Class numbers `[batch]`, -1 for ignored examples."""
    known = concrete(labels)
    given = jnp.asarray(labels)
    if is_integer(given) and given.shape == (batch,):
        if known is not None and known.size and np.any(known < UNLABELLED):
            raise ValueError(
                f"labels must be at least 0 (or -1: no label), got {known.min()}"
            )
        return given
    if given.ndim != 2 or len(given) != batch or given.shape[1] == 0:
        raise ValueError(
            f"labels must be ints [{batch}] or probabilities [{batch}, classes], got "
            f"{describe(given)}"
        )
    return jnp.where(jnp.any(given != 0, axis=-1), jnp.argmax(given, -1), UNLABELLED)


def _words(numbers: jax.Array) -> jax.Array:
    """Integers of any type as the uint32 that `fold_in` takes."""
    if numbers.dtype.itemsize < 4:
        numbers = numbers.astype(jnp.int32)
    return numbers.astype(jnp.uint32)
