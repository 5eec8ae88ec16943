"""Where the linear methods look: the points at which gradients are taken.

Every method here is `A c = s sum_i m_i * J(x_i)^T c`, with the Jacobian at n points
`x_i`, multipliers `m_i` and one scale s, and differs from the others in these alone. A
method is a function `(inputs, key, index, **options) -> Path`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.errors import unknown
from introspect_jax.explain.baselines import make_baseline

RULES = ("gauss_legendre", "left", "right", "middle", "trapezoid", "captum_trapezoid")


@dataclasses.dataclass(frozen=True)
class Path:
    """The points of a method.

    Attributes:
      points: i (an int, traced or not) -> `(x_i, m_i)`, both shaped like the inputs.
      count: n.
      scale: s.
    """

    points: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    count: int = 1
    scale: float = 1.0


def gradient(inputs: jax.Array, key: Any, index: jax.Array) -> Path:
    """`A c = J(x)^T c` (Simonyan et al. 2014)."""
    del key, index
    return Path(lambda i: (inputs, jnp.ones_like(inputs)))


def gradient_x_input(
    inputs: jax.Array, key: Any, index: jax.Array, *, baseline: Any = "zero"
) -> Path:
    """`A c = (x - b) * J(x)^T c` (Shrikumar et al. 2016)."""
    difference = inputs - make_baseline(baseline, inputs, key, index)
    return Path(lambda i: (inputs, difference))


def smoothgrad(
    inputs: jax.Array,
    key: Any,
    index: jax.Array,
    *,
    num_samples: int = 50,
    noise_level: float = 0.15,
    sigma: float | None = None,
    noise: jax.Array | None = None,
) -> Path:
    """`A c = mean_i J(x + e_i)^T c` (Smilkov et al. 2017).

    Args:
      inputs: `[batch, ...]`.
      key: of the noise, unless `noise` is given.
      index: int `[batch]`, folded into each example's key.
      num_samples: n.
      noise_level: standard deviation as a share of each example's `max - min`.
      sigma: standard deviation as it is, in place of `noise_level`.
      noise: `[batch, n, ...]`, to be added as it is.
    """
    if noise is not None:
        noise = jnp.asarray(noise, inputs.dtype)
        expected = (inputs.shape[0], *inputs.shape[1:])
        if noise.ndim != inputs.ndim + 1 or (
            (noise.shape[0], *noise.shape[2:]) != expected
        ):
            raise ValueError(
                f"noise must be [batch, samples, ...] for inputs {inputs.shape}, got "
                f"{noise.shape}"
            )
        given = jnp.moveaxis(noise, 1, 0)
        return Path(
            lambda i: (inputs + given[i], jnp.ones_like(inputs)),
            len(given),
            1 / len(given),
        )
    _check_count("num_samples", num_samples)
    keys = example_keys(key, index, "smoothgrad")
    if sigma is None:
        axes = tuple(range(1, inputs.ndim))
        low, high = inputs.min(axes, keepdims=True), inputs.max(axes, keepdims=True)
        deviation = noise_level * (high - low)
    else:
        deviation = jnp.asarray(sigma, inputs.dtype)

    def points(i):
        def draw(example_key):
            shape = inputs.shape[1:]
            return jax.random.normal(
                jax.random.fold_in(example_key, i), shape, inputs.dtype
            )

        return inputs + deviation * jax.vmap(draw)(keys), jnp.ones_like(inputs)

    return Path(points, num_samples, 1 / num_samples)


def integrated_gradients(
    inputs: jax.Array,
    key: Any,
    index: jax.Array,
    *,
    baseline: Any = "zero",
    num_steps: int = 50,
    rule: str = "gauss_legendre",
) -> Path:
    """`A c = (x - b) * sum_i w_i J(b + t_i (x - b))^T c` (Sundararajan et al. 2017).

    Args:
      inputs: `[batch, ...]`.
      key: for the baseline `"uniform"`.
      index: int `[batch]`, folded into each example's key.
      baseline: b, see `baselines.make_baseline`.
      num_steps: of the quadrature.
      rule: see `quadrature`.
    """
    _check_count("num_steps", num_steps)
    nodes, weights = (jnp.asarray(a, inputs.dtype) for a in quadrature(rule, num_steps))
    start = make_baseline(baseline, inputs, key, index)
    difference = inputs - start
    return Path(
        lambda i: (start + nodes[i] * difference, weights[i] * difference), num_steps
    )


def expected_gradients(
    inputs: jax.Array,
    key: Any,
    index: jax.Array,
    *,
    baselines: Any = None,
    num_samples: int = 50,
) -> Path:
    """`A c = mean_i (x - b_i) * J(b_i + t_i (x - b_i))^T c` (Erion et al. 2021).

    Args:
      inputs: `[batch, ...]`.
      key: of the draws: `b_i` from `baselines`, `t_i` uniform on [0, 1].
      index: int `[batch]`, folded into each example's key.
      baselines: data samples `[any, ...]`.
      num_samples: n.
    """
    _check_count("num_samples", num_samples)
    if baselines is None:
        raise ValueError("expected_gradients needs baselines=, data samples [any, ...]")
    samples = jnp.asarray(baselines, inputs.dtype)
    if samples.shape[1:] != inputs.shape[1:] or len(samples) == 0:
        raise ValueError(
            f"baselines must be [any, *{list(inputs.shape[1:])}], got "
            f"{list(samples.shape)}"
        )
    keys = example_keys(key, index, "expected_gradients")

    def points(i):
        def draw(example_key):
            which, where = jax.random.split(jax.random.fold_in(example_key, i))
            number = jax.random.randint(which, (), 0, len(samples))
            return samples[number], jax.random.uniform(where, (), inputs.dtype)

        start, share = jax.vmap(draw)(keys)
        difference = inputs - start
        share = share.reshape(-1, *[1] * (inputs.ndim - 1))
        return start + share * difference, difference

    return Path(points, num_samples, 1 / num_samples)


METHODS: dict[str, Callable[..., Path]] = {
    "gradient": gradient,
    "gradient_x_input": gradient_x_input,
    "smoothgrad": smoothgrad,
    "integrated_gradients": integrated_gradients,
    "expected_gradients": expected_gradients,
}


def quadrature(rule: str, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a rule on [0, 1], each `[steps]`, float64.

    The weights sum to 1 except those of `"captum_trapezoid"`, which are captum's
    `riemann_trapezoid` and sum to `(n - 1) / n`: for comparison only.

    Raises:
      ValueError: no such rule.
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


def example_keys(key: Any, index: jax.Array, purpose: str) -> jax.Array:
    """A key for each example `[batch]`, whatever batch it is in.

    Raises:
      ValueError: no key was given.
    """
    if key is None:
        raise ValueError(
            f"{purpose} draws random numbers: give it key=jax.random.key(0)"
        )
    return jax.vmap(lambda number: jax.random.fold_in(key, number))(index)


def _check_count(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
