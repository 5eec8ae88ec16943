"""Cross entropy with the labels."""

from ml_collections import ConfigDict

from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import label_target

SUMMARY = "cross entropy with the labels"
COST = "1.00x FLOPs"
SOURCE = "the baseline of every comparison"


def default_config() -> ConfigDict:
    """No options."""
    return ConfigDict()


def make(config: ConfigDict, context: Context) -> Method:
    """The method; `config` has no fields."""
    del config

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        metrics = describe_target(label_target(labels, context.num_classes), labels)
        return cross_entropy(logits, labels), metrics | {"loss_weights": 1.0}

    return one_network(context, objective)
