"""Explanations of a classifier's outputs, and their similarity between classes.

All functions take `logits_fn(inputs) -> [batch, classes]` and arrays. Explanations and
similarities are objects that hold their hyperparameters. To define a new explanation,
subclass `Explanation`.
"""

from introspect_jax.explain.attribution import explain_fn
from introspect_jax.explain.cam import GradCAM, HiResCAM
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.gradients import Gradient, GradientXInput
from introspect_jax.explain.maps import GradientSum, Map
from introspect_jax.explain.named import EXPLANATIONS, SIMILARITIES
from introspect_jax.explain.norms import LastLayer, Probes, Top
from introspect_jax.explain.path_integrals import ExpectedGradients, IntegratedGradients
from introspect_jax.explain.post import (
    Absolute,
    Centered,
    ChannelSum,
    Mask,
    Pool,
    ReLU,
)
from introspect_jax.explain.problem import Problem
from introspect_jax.explain.similarities import (
    Cosine,
    Dot,
    Exact,
    Projection,
    Similarity,
)
from introspect_jax.explain.similarity import class_similarity
from introspect_jax.explain.smoothgrad import SmoothGrad, SmoothGradSquared, VarGrad

__all__ = [
    "EXPLANATIONS",
    "SIMILARITIES",
    "Absolute",
    "Centered",
    "ChannelSum",
    "Cosine",
    "Dot",
    "Exact",
    "ExpectedGradients",
    "Explanation",
    "GradCAM",
    "Gradient",
    "GradientSum",
    "GradientXInput",
    "HiResCAM",
    "IntegratedGradients",
    "LastLayer",
    "Map",
    "Mask",
    "Pool",
    "Probes",
    "Problem",
    "Projection",
    "ReLU",
    "Similarity",
    "SmoothGrad",
    "SmoothGradSquared",
    "Top",
    "VarGrad",
    "class_similarity",
    "explain_fn",
]
