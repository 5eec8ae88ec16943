"""Explanations that postprocess the maps of another explanation.

They can be nested: `Absolute(Pool(ChannelSum(SmoothGrad()), 4))`.
"""

import abc
import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from introspect_jax.explain.explanation import Explanation, check_count
from introspect_jax.explain.maps import Map
from introspect_jax.explain.problem import Problem, spatial_axes


@dataclasses.dataclass(frozen=True, eq=False)
class PostMap(Explanation, abc.ABC):
    """A function of the maps of another explanation.

    Attributes:
      explanation: Explanation whose maps are processed.
    """

    explanation: Explanation

    def bind(self, problem: Problem) -> Map:
        return self.explanation.bind(problem).then(lambda m: self.post(m, problem))

    @abc.abstractmethod
    def post(self, maps: Array, problem: Problem) -> Array:
        """Computes the new maps `[batch, ...]` from maps `[batch, ...]`."""


@dataclasses.dataclass(frozen=True, eq=False)
class _LinearPostMap(PostMap, abc.ABC):
    @property
    def linear(self) -> bool:
        return self.explanation.linear


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelSum(_LinearPostMap):
    """Sum over channels; the channel axis is kept with length 1.

    Attributes:
      explanation: Explanation whose maps have channels at the `channel_axis` of the
        call.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import ChannelSum, Gradient
      >>> f = lambda x: x.sum((1, 2, 3))[:, None] * jnp.ones(2)
      >>> explain_fn(f, jnp.ones((1, 4, 4, 3)), 0, ChannelSum(Gradient())).shape
      (1, 4, 4, 1)
    """

    def post(self, maps: Array, problem: Problem) -> Array:
        if problem.channel_axis is None:
            raise ValueError("ChannelSum needs channels, got channel_axis=None")
        return maps.sum(problem.channel_axis, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Centered(_LinearPostMap):
    """Maps minus their mean over space, channel by channel.

    What is left says where the evidence is, and nothing of how much there is in all.
    With Grad-CAM `a_k`, of a network that ends in the mean over H x W positions and a
    linear layer, let `e_k` be the evidence of class k at each position, its features
    times the weights, and `u_k` the mean of `e_k`, the logit without the bias. Then
    `a_k = e_k / HW`, and

        HW <a_k, a_y> = cov(e_k, e_y) + u_k u_y

    with the covariance over positions, divided by HW. Inner products of
    `Centered(GradCAM(features_fn, head_fn))` are the first term alone;
    `logit_similarity` has the second. For other heads, only the centred maps are
    defined: their inner products are no part of such a sum with the logits.

    Attributes:
      explanation: Explanation whose maps have spatial axes.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Centered, GradientXInput
      >>> f = lambda x: x.sum((1, 2))
      >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> explain_fn(f, x, 0, Centered(GradientXInput()))[0, ..., 0]
      Array([[-1.5, -0.5],
             [ 0.5,  1.5]], dtype=float32)
    """

    def post(self, maps: Array, problem: Problem) -> Array:
        space = spatial_axes(maps.shape, problem.channel_axis, "Centered")
        return maps - maps.mean(space, keepdims=True)


@dataclasses.dataclass(frozen=True, eq=False)
class Pool(_LinearPostMap):
    """Mean over blocks of `size` pixels along every spatial axis.

    Attributes:
      explanation: Explanation whose maps have spatial axes divisible by `size`.
      size: Side length of a block in pixels.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Gradient, Pool
      >>> f = lambda x: x.sum((1, 2, 3))[:, None] * jnp.ones(2)
      >>> explain_fn(f, jnp.ones((1, 4, 4, 3)), 0, Pool(Gradient(), 2)).shape
      (1, 2, 2, 3)
    """

    size: int

    def __post_init__(self) -> None:
        check_count(self, "size")

    def post(self, maps: Array, problem: Problem) -> Array:
        space = spatial_axes(maps.shape, problem.channel_axis, "Pool")
        if any(maps.shape[axis] % self.size for axis in space):
            raise ValueError(
                f"Pool: size={self.size} does not divide the sides of the maps "
                f"{list(maps.shape)}"
            )
        for axis in space:
            shape = maps.shape
            count = shape[axis] // self.size
            split = (*shape[:axis], count, self.size, *shape[axis + 1 :])
            maps = maps.reshape(split).mean(axis + 1)
        return maps


@dataclasses.dataclass(frozen=True, eq=False)
class Mask(_LinearPostMap):
    """Product with a mask, such as one that removes the background.

    Attributes:
      explanation: Explanation whose maps are masked.
      mask: Array that broadcasts to the maps.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Gradient, Mask
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> explanation = Mask(Gradient(), jnp.array([1.0, 0.0]))
      >>> explain_fn(lambda x: x @ kernel, jnp.ones((1, 2)), 0, explanation)
      Array([[1., 0.]], dtype=float32)
    """

    mask: ArrayLike

    def post(self, maps: Array, problem: Problem) -> Array:
        mask = jnp.asarray(self.mask, maps.dtype)
        try:
            return maps * jnp.broadcast_to(mask, maps.shape)
        except ValueError as error:
            raise ValueError(
                f"Mask: a mask of shape {list(mask.shape)} does not broadcast to maps "
                f"of shape {list(maps.shape)}"
            ) from error


@dataclasses.dataclass(frozen=True, eq=False)
class Absolute(PostMap):
    """Absolute value; not linear in the cotangent.

    `Absolute(Gradient())` equals captum's `Saliency` with its defaults.

    Attributes:
      explanation: Explanation whose maps are processed.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Absolute, Gradient
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> explain_fn(lambda x: x @ kernel, jnp.ones((1, 2)), 1, Absolute(Gradient()))
      Array([[2., 0.]], dtype=float32)
    """

    linear = False

    def post(self, maps: Array, problem: Problem) -> Array:
        return jnp.abs(maps)


@dataclasses.dataclass(frozen=True, eq=False)
class ReLU(PostMap):
    """Positive part; not linear in the cotangent.

    `ReLU(GradCAM(features_fn, head_fn))` is Grad-CAM as published.

    Attributes:
      explanation: Explanation whose maps are processed.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Gradient, ReLU
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> explain_fn(lambda x: x @ kernel, jnp.ones((1, 2)), 1, ReLU(Gradient()))
      Array([[0., 0.]], dtype=float32)
    """

    linear = False

    def post(self, maps: Array, problem: Problem) -> Array:
        return jax.nn.relu(maps)
