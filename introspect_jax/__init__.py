"""Introspective learning: a classifier distils its own class similarity.

The four functions below are pure, take any `logits_fn(inputs) -> [batch, classes]`
and import no framework but JAX:

    target = introspect(lambda x: apply(params, x, train=False), x, y)
    loss, _ = loss_fn(apply(params, x, train=True), y, target, weight=0.1)

Everything else (networks, data, training, reports) is imported by its own path.
"""

from introspect_jax.explain.attribution import explain_fn
from introspect_jax.explain.similarity import class_similarity
from introspect_jax.introspection import introspect
from introspect_jax.objectives.losses import loss_fn

__all__ = ["class_similarity", "explain_fn", "introspect", "loss_fn"]
__version__ = "0.2.0"
