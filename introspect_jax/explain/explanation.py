"""Base class of explanations."""

import abc
import dataclasses

from introspect_jax.explain.maps import Map
from introspect_jax.explain.problem import Problem
from introspect_jax.explain.tree import TreeNode


@dataclasses.dataclass(frozen=True, eq=False)
class Explanation(TreeNode, abc.ABC):
    """An explanation and its hyperparameters; base class of all explanations.

    A subclass is a frozen dataclass that defines two members:

    * `linear`: whether its maps are linear in the output cotangent. The class
      similarity of a linear explanation requires one map and its transpose, regardless
      of the number of classes; any other explanation is computed for every class.
    * `bind(problem)`: the explanation at fixed inputs, as a `Map` from cotangents
      `[m, batch, classes]` to maps `[m, batch, ...]`. For a sum of weighted gradients,
      return `GradientSum(problem, points, count)`, which implements chunking and the
      transpose; otherwise return `Map(problem, function)`.

    `examples/own_explanation.py` defines one of each kind. Both work with every
    similarity, chunk size, metric and picture; norms apply to linear ones.

    Example:
      >>> import dataclasses, jax, jax.numpy as jnp
      >>> from introspect_jax import class_similarity
      >>> from introspect_jax.explain import Explanation, Map
      >>> @dataclasses.dataclass(frozen=True, eq=False)
      ... class SquaredGradient(Explanation):
      ...     linear = False
      ...
      ...     def bind(self, problem):
      ...         _, vjp = jax.vjp(problem.logits, problem.inputs)
      ...         return Map(problem, lambda c: jax.vmap(vjp)(c)[0] ** 2)
      >>> kernel = jnp.array([[1.0, -2.0, 3.0], [1.0, 2.0, 0.0]])
      >>> class_similarity(lambda x: x @ kernel, jnp.ones((1, 2)), jnp.array([0]),
      ...                  SquaredGradient())
      Array([[1. , 4. , 4.5]], dtype=float32)
    """

    @property
    @abc.abstractmethod
    def linear(self) -> bool:
        """Whether maps are linear in the output cotangent."""

    @abc.abstractmethod
    def bind(self, problem: Problem) -> Map:
        """The explanation of a function at fixed inputs."""


def check_count(owner: object, name: str) -> None:
    """Raises a ValueError if an integer hyperparameter is below 1."""
    value = getattr(owner, name)
    if isinstance(value, bool) or int(value) != value or value < 1:
        kind = type(owner).__name__
        raise ValueError(f"{kind}: {name} must be at least 1, got {value}")
