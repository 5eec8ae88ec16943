"""Gradients integrated along paths from a baseline to the input."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from introspect_jax.errors import unknown
from introspect_jax.explain.baselines import check_name, make_baseline
from introspect_jax.explain.explanation import Explanation, check_count
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.problem import Problem

RULES = ("gauss_legendre", "left", "right", "middle", "trapezoid", "captum_trapezoid")


@dataclasses.dataclass(frozen=True, eq=False)
class IntegratedGradients(Explanation):
    """`A c = (x - b) * sum_i w_i J(b + t_i (x - b))^T c` (Sundararajan et al. 2017).

    The defaults match captum 0.9.0.

    Attributes:
      num_steps: Number of quadrature steps.
      baseline: Baseline b, a name or an array; see `baselines.make_baseline`.
      rule: Quadrature rule, see `quadrature`.

    Example:
      >>> import jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import IntegratedGradients
      >>> f = lambda x: jnp.stack([x[:, 0] * x[:, 1], x[:, 0]], axis=1)
      >>> x = jnp.array([[2.0, 3.0]])
      >>> maps = explain_fn(f, x, 0, IntegratedGradients(num_steps=4))
      >>> maps  # complete: they sum to f(x) - f(0) = 6
      Array([[3., 3.]], dtype=float32)
    """

    num_steps: int = 50
    baseline: str | ArrayLike = "zero"
    rule: str = "gauss_legendre"
    linear = True

    def __post_init__(self) -> None:
        check_count(self, "num_steps")
        check_name(self.baseline)
        if self.rule not in RULES:
            raise ValueError(unknown("quadrature rule", self.rule, RULES))

    def bind(self, problem: Problem) -> Map:
        inputs = problem.inputs
        nodes, weights = (
            jnp.asarray(a, inputs.dtype) for a in quadrature(self.rule, self.num_steps)
        )
        start = make_baseline(self.baseline, problem)
        difference = inputs - start
        return GradientSum(
            problem,
            lambda i: (start + nodes[i] * difference, weights[i] * difference),
            self.num_steps,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class ExpectedGradients(Explanation):
    """`A c = mean_i (x - b_i) * J(b_i + t_i (x - b_i))^T c` (Erion et al. 2021).

    Requires `key`: `b_i` is drawn from the baselines, `t_i` uniformly from [0, 1].

    Attributes:
      baselines: Examples to draw the baselines from, `[any, ...]`.
      num_samples: Number of samples.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from introspect_jax import explain_fn
      >>> from introspect_jax.explain import ExpectedGradients
      >>> kernel = jnp.array([[1.0, -2.0], [3.0, 0.0]])
      >>> explanation = ExpectedGradients(baselines=jnp.zeros((5, 2)), num_samples=2)
      >>> explain_fn(lambda x: x @ kernel, jnp.ones((1, 2)), 0, explanation,
      ...            key=jax.random.key(0))
      Array([[1., 3.]], dtype=float32)
    """

    baselines: ArrayLike
    num_samples: int = 50
    linear = True

    def __post_init__(self) -> None:
        check_count(self, "num_samples")

    def bind(self, problem: Problem) -> Map:
        inputs = problem.inputs
        samples = jnp.asarray(self.baselines, inputs.dtype)
        if samples.shape[1:] != inputs.shape[1:] or len(samples) == 0:
            raise ValueError(
                f"baselines must be [any, *{list(inputs.shape[1:])}], got "
                f"{list(samples.shape)}"
            )
        keys = problem.example_keys("ExpectedGradients")

        def points(i: Array) -> tuple[Array, Array]:
            def draw(example_key: Array) -> tuple[Array, Array]:
                which, where = jax.random.split(jax.random.fold_in(example_key, i))
                number = jax.random.randint(which, (), 0, len(samples))
                return samples[number], jax.random.uniform(where, (), inputs.dtype)

            start, share = jax.vmap(draw)(keys)
            difference = inputs - start
            share = share.reshape(-1, *[1] * (inputs.ndim - 1))
            return start + share * difference, difference

        return GradientSum(problem, points, self.num_samples, 1 / self.num_samples)


def quadrature(
    rule: str, steps: int
) -> tuple[Float[np.ndarray, " steps"], Float[np.ndarray, " steps"]]:
    """Nodes and weights of a quadrature rule on [0, 1], each `[steps]`, float64.

    The weights sum to 1, except for `"captum_trapezoid"`: captum's `riemann_trapezoid`,
    whose weights sum to `(n - 1) / n`, is provided for comparison only.

    Args:
      rule: `"gauss_legendre"`, `"left"`, `"right"`, `"middle"`, `"trapezoid"` or
        `"captum_trapezoid"`.
      steps: Number n of nodes, at least 1.

    Raises:
      ValueError: An unknown rule.

    Example:
      >>> nodes, weights = quadrature("middle", 2)
      >>> nodes.tolist(), weights.tolist()
      ([0.25, 0.75], [0.5, 0.5])
    """
    n = steps
    even = np.full(n, 1 / n)
    if rule == "gauss_legendre":
        nodes, weights = np.polynomial.legendre.leggauss(n)
        return (1 + nodes) / 2, weights / 2
    if rule == "left":
        return np.arange(n) / n, even
    if rule == "right":
        return np.arange(1, n + 1) / n, even
    if rule == "middle":
        return (np.arange(n) + 0.5) / n, even
    if rule not in RULES:
        raise ValueError(unknown("quadrature rule", rule, RULES))
    if n == 1:
        return np.array([0.5]), np.array([1.0])
    halved = np.ones(n)
    halved[[0, -1]] = 0.5
    total = n if rule == "captum_trapezoid" else n - 1
    return np.linspace(0, 1, n), halved / total
