"""Gradients of the outputs, and gradients times the input."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import ArrayLike

from introspect_jax.explain.baselines import check_name, make_baseline
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.problem import Problem


@dataclasses.dataclass(frozen=True, eq=False)
class Gradient(Explanation):
    """Signed gradient `A c = J(x)^T c` (Simonyan et al. 2014).

    Equals captum's `Saliency(abs=False)`; captum's default is `Absolute(Gradient())`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import Gradient
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> explain_fn(lambda x: x @ kernel, jnp.ones((1, 2)), 0, Gradient())
      Array([[1., 3.]], dtype=float32)
    """

    linear = True

    def bind(self, problem: Problem) -> Map:
        inputs = problem.inputs
        return GradientSum(problem, lambda i: (inputs, jnp.ones_like(inputs)))


@dataclasses.dataclass(frozen=True, eq=False)
class GradientXInput(Explanation):
    """Gradient times input, `A c = (x - b) * J(x)^T c` (Shrikumar et al. 2016).

    Attributes:
      baseline: Baseline b, a name or an array; see `baselines.make_baseline`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import GradientXInput
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> x = jnp.array([[10.0, 20.0]])
      >>> explain_fn(lambda x: x @ kernel, x, 0, GradientXInput(baseline=4.0))
      Array([[ 6., 48.]], dtype=float32)
    """

    baseline: str | ArrayLike = "zero"
    linear = True

    def __post_init__(self) -> None:
        check_name(self.baseline)

    def bind(self, problem: Problem) -> Map:
        inputs = problem.inputs
        difference = inputs - make_baseline(self.baseline, problem)
        return GradientSum(problem, lambda i: (inputs, difference))
