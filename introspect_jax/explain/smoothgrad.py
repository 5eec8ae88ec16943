"""Moments of gradients at noisy inputs."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from introspect_jax.explain.explanation import Explanation, check_count
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class _NoisyGradients(Explanation):
    """Base class of explanations from gradients at noisy inputs.

    Attributes:
      num_samples: Number n of noise samples.
      noise_level: Standard deviation of the noise as a fraction of each example's
        `max - min`.
      sigma: Standard deviation in units of the inputs; overrides `noise_level`.
      noise: Noise to add instead of random samples, `[batch, n, ...]`.
    """

    num_samples: int = 50
    noise_level: float = 0.15
    sigma: float | None = None
    noise: ArrayLike | None = None

    def __post_init__(self) -> None:
        check_count(self, "num_samples")

    def gradients(self, problem: Problem) -> GradientSum:
        """Mean of the gradients at the noisy inputs."""
        inputs = problem.inputs
        if self.noise is not None:
            noise = jnp.asarray(self.noise, inputs.dtype)
            if (
                noise.ndim != inputs.ndim + 1
                or (noise.shape[0], *noise.shape[2:]) != inputs.shape
            ):
                raise ValueError(
                    f"noise must be [batch, samples, ...] for inputs "
                    f"{list(inputs.shape)}, got {list(noise.shape)}"
                )
            count = noise.shape[1]
            return GradientSum(
                problem,
                lambda i: (
                    inputs + jax.lax.dynamic_index_in_dim(noise, i, 1, keepdims=False),
                    jnp.ones_like(inputs),
                ),
                count,
                1 / count,
            )
        keys = problem.example_keys(type(self).__name__)
        if self.sigma is None:
            axes = tuple(range(1, inputs.ndim))
            low, high = inputs.min(axes, keepdims=True), inputs.max(axes, keepdims=True)
            deviation = self.noise_level * (high - low)
        else:
            deviation = jnp.asarray(self.sigma, inputs.dtype)

        def points(i: Array) -> tuple[Array, Array]:
            def draw(example_key: Array) -> Array:
                return jax.random.normal(
                    jax.random.fold_in(example_key, i), inputs.shape[1:], inputs.dtype
                )

            return inputs + deviation * jax.vmap(draw)(keys), jnp.ones(
                inputs.shape, inputs.dtype
            )

        return GradientSum(problem, points, self.num_samples, 1 / self.num_samples)


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothGrad(_NoisyGradients):
    """`A c = mean_i J(x + e_i)^T c` with normal `e_i` (Smilkov et al. 2017).

    The mean is signed, as in the paper; captum's `NoiseTunnel(Saliency)` averages
    absolute values by default. Requires `key` unless `noise` is set.

    Attributes:
      num_samples: Number n of noise samples; 50 as in the paper.
      noise_level: Standard deviation of the noise as a fraction of each example's
        `max - min`; 0.1 to 0.2 in the paper.
      sigma: Standard deviation in units of the inputs; overrides `noise_level`.
      noise: Noise to add instead of random samples, `[batch, n, ...]`.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import SmoothGrad
      >>> f = lambda x: jnp.stack([x.sum(1) ** 2, x.sum(1)], axis=1)
      >>> x = jnp.ones((1, 2))
      >>> noise = jnp.array([[[0.5, 0.5], [-0.5, 0.5]]])
      >>> explain_fn(f, x, 0, SmoothGrad(noise=noise))
      Array([[5., 5.]], dtype=float32)
      >>> explain_fn(f, x, 1, SmoothGrad(num_samples=8), key=jax.random.key(0))
      Array([[1., 1.]], dtype=float32)
    """

    linear = True

    def bind(self, problem: Problem) -> Map:
        return self.gradients(problem)


@dataclasses.dataclass(frozen=True, eq=False)
class SmoothGradSquared(_NoisyGradients):
    """`mean_i (J(x + e_i)^T c)^2` (Hooker et al. 2019); not linear in c.

    Attributes:
      num_samples: See `SmoothGrad`.
      noise_level: See `SmoothGrad`.
      sigma: See `SmoothGrad`.
      noise: See `SmoothGrad`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import SmoothGradSquared
      >>> f = lambda x: jnp.stack([x.sum(1) ** 2, x.sum(1)], axis=1)
      >>> noise = jnp.array([[[0.5, 0.5], [-0.5, 0.5]]])
      >>> explain_fn(f, jnp.ones((1, 2)), 0, SmoothGradSquared(noise=noise))
      Array([[26., 26.]], dtype=float32)
    """

    linear = False

    def bind(self, problem: Problem) -> Map:
        gradients = self.gradients(problem)
        return Map(problem, lambda cotangents: gradients.moment(cotangents, 2))


@dataclasses.dataclass(frozen=True, eq=False)
class VarGrad(_NoisyGradients):
    """Variance of `J(x + e_i)^T c` over the samples (Adebayo et al. 2018).

    This is the population variance (divided by n); it is not linear in c.

    Attributes:
      num_samples: See `SmoothGrad`.
      noise_level: See `SmoothGrad`.
      sigma: See `SmoothGrad`.
      noise: See `SmoothGrad`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import VarGrad
      >>> f = lambda x: jnp.stack([x.sum(1) ** 2, x.sum(1)], axis=1)
      >>> noise = jnp.array([[[0.5, 0.5], [-0.5, 0.5]]])
      >>> explain_fn(f, jnp.ones((1, 2)), 0, VarGrad(noise=noise))
      Array([[1., 1.]], dtype=float32)
    """

    linear = False

    def bind(self, problem: Problem) -> Map:
        gradients = self.gradients(problem)

        def variance(cotangents: Array) -> Array:
            mean = gradients.moment(cotangents, 1)
            return gradients.moment(cotangents, 2) - mean**2

        return Map(problem, variance)
