"""Label smoothing."""

from ml_collections import ConfigDict

from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.objectives.losses import cross_entropy, describe_target
from introspect_jax.objectives.targets import SMOOTHINGS, smooth_labels, whole_target
from introspect_jax.options import check_choice, check_range

SUMMARY = "cross entropy with labels mixed with the uniform distribution"
COST = "1.00x FLOPs of standard"
SOURCE = "Szegedy et al., Rethinking the Inception Architecture, CVPR 2016, section 7"


def default_config() -> ConfigDict:
    """`epsilon`: mass moved; `spread`: "uniform" (e / K) or "others" (e / (K - 1))."""
    return ConfigDict({"epsilon": 0.1, "spread": "uniform"})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: epsilon outside of [0, 1), or an unknown spread.
    """
    check_range("method.label_smoothing.", config, epsilon=(0, 1, "[)"))
    check_choice("method.label_smoothing.", config, spread=SMOOTHINGS)
    epsilon, spread = config.epsilon, config.spread

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        probs = smooth_labels(labels, context.num_classes, epsilon, spread)
        metrics = describe_target(whole_target(probs), labels)
        return cross_entropy(logits, probs), metrics | {"loss_weights": 1.0}

    return one_network(context, objective)
