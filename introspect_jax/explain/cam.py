"""Class activation maps, linear in the gradient of the feature maps.

The final ReLU is not applied; see `ReLU`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class _FeatureMaps(Explanation):
    """Base class of class activation maps.

    Attributes:
      features_fn: Function from inputs to feature maps `[batch, h, w, c]`.
      head_fn: Function from feature maps to logits `[batch, classes]`.
    """

    features_fn: Callable[..., Any]
    head_fn: Callable[..., Any]

    def features(self, problem: Problem) -> Problem:
        """Problem of explaining `head_fn` at the feature maps."""
        name = type(self).__name__
        inputs = problem.inputs.astype(problem.dtype)
        maps = jnp.asarray(self.features_fn(inputs, *problem.batched))
        if maps.ndim < 3 or len(maps) != len(inputs) or problem.channel_axis is None:
            raise ValueError(
                f"{name}: features_fn must return feature maps "
                f"[{len(inputs)}, h, w, c], or with the channels where channel_axis "
                f"says; got {list(maps.shape)}, channel_axis={problem.channel_axis}"
            )
        features = problem.at(self.head_fn, maps)
        if features.outputs.shape != problem.outputs.shape:
            raise ValueError(
                f"{name}: head_fn must return the logits of logits_fn, "
                f"{list(problem.outputs.shape)}, got {list(features.outputs.shape)}"
            )
        return features


@dataclasses.dataclass(frozen=True, eq=False)
class GradCAM(_FeatureMaps):
    """Sum over channels of the feature maps, weighted by their mean gradient.

    `sum_c h_c mean_space (J(h)^T c)_c` for feature maps h (Selvaraju et al. 2017),
    without the paper's final ReLU; see `ReLU` for that. Like captum's `LayerGradCam`,
    the map has one channel and the spatial size of the feature maps.

    Attributes:
      features_fn: Function from inputs to feature maps `[batch, h, w, c]`, with the
        channels at the `channel_axis` of the call. Like `logits_fn`, it also receives
        the arrays of `batched`.
      head_fn: Function from feature maps to logits `[batch, classes]`, such that
        `logits_fn(x) = head_fn(features_fn(x))`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import GradCAM
      >>> features_fn = lambda x: jnp.concatenate([x, -x], axis=-1)
      >>> head_fn = lambda h: h.mean((1, 2)) @ jnp.array([[1.0, 0.0], [0.0, 2.0]])
      >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> maps = explain_fn(lambda x: head_fn(features_fn(x)), x, 1,
      ...                   GradCAM(features_fn, head_fn))
      >>> maps[0, ..., 0]
      Array([[ 0. , -0.5],
             [-1. , -1.5]], dtype=float32)
    """

    linear = True

    def bind(self, problem: Problem) -> Map:
        features = self.features(problem)
        maps, channels = features.inputs, features.channel_axis
        space = features.space("GradCAM")
        gradient = GradientSum(features, lambda i: (maps, jnp.ones_like(maps)))

        def weigh(gradients: Array) -> Array:
            weighted = maps * gradients.mean(space, keepdims=True)
            return weighted.sum(channels, keepdims=True)

        return gradient.then(weigh)


@dataclasses.dataclass(frozen=True, eq=False)
class HiResCAM(_FeatureMaps):
    """Sum over channels of the feature maps times their gradient.

    `sum_c h_c (J(h)^T c)_c` for feature maps h (Draelos and Carin 2020), without a
    ReLU. Grad-CAM averages the gradient over space; HiResCAM does not. Both agree for a
    network that ends in global average pooling and a linear layer.

    Attributes:
      features_fn: See `GradCAM`.
      head_fn: See `GradCAM`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import HiResCAM
      >>> features_fn = lambda x: jnp.concatenate([x, -x], axis=-1)
      >>> head_fn = lambda h: (h**2).sum((1, 2))
      >>> x = jnp.arange(4.0).reshape(1, 2, 2, 1)
      >>> maps = explain_fn(lambda x: head_fn(features_fn(x)), x, 1,
      ...                   HiResCAM(features_fn, head_fn))
      >>> maps[0, ..., 0]
      Array([[ 0.,  2.],
             [ 8., 18.]], dtype=float32)
    """

    linear = True

    def bind(self, problem: Problem) -> Map:
        features = self.features(problem)
        maps, channels = features.inputs, features.channel_axis
        gradient = GradientSum(features, lambda i: (maps, maps))
        return gradient.then(lambda weighted: weighted.sum(channels, keepdims=True))
