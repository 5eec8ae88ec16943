"""Named baselines for explanations; inputs are assumed to be normalised."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from introspect_jax.errors import unknown
from introspect_jax.explain.problem import Problem, image_axes

NAMES = ("zero", "mean", "blur", "uniform")
_BLUR_SHARE = 0.2  # standard deviation of the blur as a fraction of the side


def make_baseline(
    baseline: str | ArrayLike, problem: Problem
) -> Float[Array, " batch *dims"]:
    """Baseline of each input.

    Args:
      baseline: `"zero"`: the mean of the data if inputs are normalised; `"mean"`: the
        example's own spatial mean per channel; `"blur"`: the example blurred by a
        Gaussian with a standard deviation of a fifth of its side; `"uniform"`: uniform
        noise between the example's smallest and largest value, which requires a key; or
        an array that broadcasts to the inputs.
      problem: Inputs, their `channel_axis`, random key and example numbers.

    Raises:
      ValueError: An unknown name, an array of the wrong shape, a missing key, or inputs
        without spatial axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax.explain.problem import make_problem
      >>> images = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> problem = make_problem(lambda x: x.sum((1, 2)), images)
      >>> make_baseline("mean", problem)[0, ..., 0]
      Array([[1.5, 1.5],
             [1.5, 1.5]], dtype=float32)
    """
    inputs = problem.inputs
    if not isinstance(baseline, str):
        baseline = jnp.asarray(baseline, inputs.dtype)
        try:
            return jnp.broadcast_to(baseline, inputs.shape)
        except ValueError as error:
            raise ValueError(
                f"baseline has shape {list(baseline.shape)}, which does not broadcast "
                f"to the inputs' {list(inputs.shape)}"
            ) from error
    check_name(baseline)
    if baseline == "zero":
        return jnp.zeros_like(inputs)
    if baseline == "uniform":
        axes = tuple(range(1, inputs.ndim))
        low, high = inputs.min(axes, keepdims=True), inputs.max(axes, keepdims=True)

        def draw(example_key: Array) -> Array:
            return jax.random.uniform(example_key, inputs.shape[1:], inputs.dtype)

        draws = jax.vmap(draw)(problem.example_keys("baseline='uniform'"))
        return low + (high - low) * draws
    space = image_axes(inputs.shape, problem.channel_axis, f"baseline={baseline!r}")
    if baseline == "mean":
        return jnp.broadcast_to(inputs.mean(space, keepdims=True), inputs.shape)
    for axis in space:
        inputs = _blur(inputs, axis)
    return inputs


def check_name(baseline: object) -> None:
    """Raises a ValueError for a string that is not a baseline name."""
    if isinstance(baseline, str) and baseline not in NAMES:
        raise ValueError(unknown("baseline", baseline, (*NAMES, "or an array")))


def _blur(images: Array, axis: int) -> Array:
    """Gaussian blur along one axis; weights are renormalised at the image border."""
    side = images.shape[axis]
    place = jnp.arange(side, dtype=images.dtype)
    deviation = _BLUR_SHARE * side
    weights = jnp.exp(-(((place[:, None] - place[None, :]) / deviation) ** 2) / 2)
    weights = weights / weights.sum(-1, keepdims=True)
    return jnp.moveaxis(jnp.tensordot(images, weights, ([axis], [1])), -1, axis)
