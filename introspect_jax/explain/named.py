"""Names of explanations and similarities with default hyperparameters."""

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

from introspect_jax.errors import unknown
from introspect_jax.explain.cam import GradCAM, HiResCAM
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.gradients import Gradient, GradientXInput
from introspect_jax.explain.path_integrals import ExpectedGradients, IntegratedGradients
from introspect_jax.explain.similarities import Cosine, Dot, Projection, Similarity
from introspect_jax.explain.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad
from introspect_jax.explain.tree import TreeNode

EXPLANATIONS: dict[str, type[Explanation]] = {
    "gradient": Gradient,
    "gradient_x_input": GradientXInput,
    "smoothgrad": SmoothGrad,
    "smoothgrad_squared": SmoothGradSquared,
    "vargrad": VarGrad,
    "integrated_gradients": IntegratedGradients,
    "expected_gradients": ExpectedGradients,
    "grad_cam": GradCAM,
    "hires_cam": HiResCAM,
}
SIMILARITIES: dict[str, type[Similarity]] = {
    "projection": Projection,
    "cosine": Cosine,
    "dot": Dot,
}
_Node = TypeVar("_Node", bound=TreeNode)


def as_explanation(explanation: str | Explanation) -> Explanation:
    """Returns the explanation of a name; objects are returned unchanged.

    Raises:
      ValueError: An unknown name, or an explanation with required arguments.
    """
    if isinstance(explanation, Explanation):
        return explanation
    return _named("explanation", explanation, EXPLANATIONS)


def as_similarity(similarity: str | Similarity) -> Similarity:
    """Returns the similarity of a name; objects are returned unchanged.

    Raises:
      ValueError: An unknown name.
    """
    if isinstance(similarity, Similarity):
        return similarity
    return _named("similarity", similarity, SIMILARITIES)


def _named(kind: str, name: object, classes: Mapping[str, type[_Node]]) -> _Node:
    if not isinstance(name, str):
        hint = f"; did you mean {name.__name__}()?" if isinstance(name, type) else ""
        raise ValueError(
            f"{kind} must be an object of introspect_jax.explain or a name, got "
            f"{name!r}{hint}"
        )
    if name not in classes:
        raise ValueError(unknown(kind, name, classes))
    cls = classes[name]
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if needed:
        raise ValueError(
            f"{kind} {name!r} needs more than a name: give the object "
            f"introspect_jax.explain.{cls.__name__}({', '.join(needed)})"
        )
    return cls()
