"""Gradients at noisy inputs, and their moments."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from introspect_jax.explain.explanation import Explanation, check_count
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class _NoisyGradients(Explanation):
    """What the three classes below share.

    Attributes:
      num_samples: n.
      noise_level: standard deviation of the noise as a share of each example's
        `max - min`.
      sigma: standard deviation in units of the inputs, in place of `noise_level`.
      noise: `[batch, n, ...]`, added as it is in place of what would be drawn.
    """

    num_samples: int = 50
    noise_level: float = 0.15
    sigma: float | None = None
    noise: ArrayLike | None = None

    def __post_init__(self) -> None:
        check_count(self, "num_samples")

    def gradients(self, problem: Problem) -> GradientSum:
        """The mean of the gradients at the noisy inputs."""
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
    """`A c = mean_i J(x + e_i)^T c`, `e_i` normal (Smilkov et al. 2017).

    The signed mean of the paper; captum's `NoiseTunnel(Saliency)` takes the mean of
    absolute values by default. Needs `key`, unless `noise` is given.

    Attributes:
      num_samples: n; 50 as in the paper.
      noise_level: standard deviation of the noise as a share of each example's
        `max - min`, 0.1 to 0.2 in the paper.
      sigma: standard deviation in units of the inputs, in place of `noise_level`.
      noise: `[batch, n, ...]`, added as it is in place of what would be drawn.

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
    """`mean_i (J(x + e_i)^T c)^2` (Hooker et al. 2019): not linear in c.

    Attributes:
      num_samples: n.
      noise_level: see `SmoothGrad`.
      sigma: see `SmoothGrad`.
      noise: see `SmoothGrad`.

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
    """The variance of `J(x + e_i)^T c` over the samples (Adebayo et al. 2018).

    Of the population: divided by n. Not linear in c.

    Attributes:
      num_samples: n.
      noise_level: see `SmoothGrad`.
      sigma: see `SmoothGrad`.
      noise: see `SmoothGrad`.

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
