"""What an input is compared with: named baselines, on normalised inputs."""

from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown

NAMES = ("zero", "mean", "blur", "uniform")
_BLUR_SHARE = 0.2  # standard deviation of the blur, of the image's side


def make_baseline(
    baseline: Any, inputs: jax.Array, key: Any, index: jax.Array
) -> jax.Array:
    """The baseline of each input, `[batch, ...]`.

    Args:
      baseline: `"zero"` (after normalisation the data's mean); `"mean"`, each example's
        own mean over everything but channels; `"blur"`, the example itself, blurred
        over space by a Gaussian of a fifth of its side; `"uniform"`, noise between the
        example's smallest and largest value; or an array that broadcasts to the inputs.
      inputs: `[batch, ...]`; images `[batch, h, w, c]` for `"mean"` and `"blur"`.
      key: for `"uniform"`.
      index: int `[batch]`, folded into each example's key.

    Raises:
      ValueError: an unknown name, another shape, or a missing key.
    """
    if not isinstance(baseline, str):
        baseline = jnp.asarray(baseline, inputs.dtype)
        try:
            return jnp.broadcast_to(baseline, inputs.shape)
        except ValueError as error:
            raise ValueError(
                f"baseline has shape {baseline.shape}, which does not broadcast to the "
                f"inputs' {inputs.shape}"
            ) from error
    if baseline not in NAMES:
        raise ValueError(unknown("baseline", baseline, (*NAMES, "or an array")))
    if baseline == "zero":
        return jnp.zeros_like(inputs)
    axes = tuple(range(1, inputs.ndim))
    if baseline == "uniform":
        if key is None:
            raise ValueError("baseline='uniform' needs key=, a random key")
        low, high = inputs.min(axes, keepdims=True), inputs.max(axes, keepdims=True)

        def draw(number):
            example_key = jax.random.fold_in(key, number)
            return jax.random.uniform(example_key, inputs.shape[1:], inputs.dtype)

        return low + (high - low) * jax.vmap(draw)(index)
    if inputs.ndim != 4:
        raise ValueError(
            f"baseline={baseline!r} needs images [batch, h, w, c], got {inputs.shape}"
        )
    if baseline == "mean":
        mean = inputs.mean((1, 2), keepdims=True)
        return jnp.broadcast_to(mean, inputs.shape)
    return _blur(_blur(inputs, 1), 2)


def _blur(images: jax.Array, axis: int) -> jax.Array:
    """A Gaussian along one axis; weights that leave the image are left out."""
    side = images.shape[axis]
    place = jnp.arange(side, dtype=images.dtype)
    deviation = _BLUR_SHARE * side
    weights = jnp.exp(-(((place[:, None] - place[None, :]) / deviation) ** 2) / 2)
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.moveaxis(jnp.tensordot(images, weights, ([axis], [1])), -1, axis)
