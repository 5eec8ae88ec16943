"""Confidence penalty: cross entropy minus the entropy of the outputs."""

from ml_collections import ConfigDict

from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.objectives.losses import (
    confidence_penalty,
    cross_entropy,
    describe_target,
)
from introspect_jax.objectives.targets import label_target
from introspect_jax.options import check_range

SUMMARY = "cross entropy minus the entropy of the outputs"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output "
    "Distributions, 2017 (arXiv 1701.06548)"
)


def default_config() -> ConfigDict:
    """`weight`: of the entropy (the beta of the paper), summed over classes."""
    return ConfigDict({"weight": 0.1})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: a negative weight.
    """
    check_range("method.confidence_penalty.", config, weight=(0, float("inf"), "[)"))
    weight = config.weight

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        hard = cross_entropy(logits, labels)
        penalty = confidence_penalty(logits, labels)
        return hard + weight * penalty, {
            "cross_entropy": hard,
            "output_entropy": -penalty,
            "loss_weights": 1.0 + weight,
            **describe_target(label_target(labels, context.num_classes), labels),
        }

    return one_network(context, objective)
