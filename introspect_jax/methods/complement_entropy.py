"""Complement entropy: a loss that makes outputs on the other classes uniform."""

from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.methods.terms import mixed
from introspect_jax.objectives.losses import complement_entropy, describe_target
from introspect_jax.objectives.targets import uniform_others
from introspect_jax.options import check_choice, check_range

SUMMARY = "cross entropy, and outputs made uniform over the other classes"
COST = "1.00x FLOPs of standard"
SOURCE = "Chen et al., Complement Objective Training, ICLR 2019 (arXiv 1903.01182)"
FORMS = ("distillation", "entropy")


def default_config() -> ConfigDict:
    """`weight` and `form` of the second term, with r the outputs among the others:

    * `"distillation"`: `KL(uniform || r)`, which is introspective learning without
      introspection: the two differ in the target alone;
    * `"entropy"`: `KL(r || uniform) = log(K - 1) - H(r)`, the paper's up to a constant.

    The paper takes steps on the two terms in turn, and divides the second by K; here
    they are added, so that a step is a step in every method.
    """
    return ConfigDict({"weight": 0.1, "form": "distillation"})


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: a negative weight, an unknown form, or two classes.
    """
    prefix = "method.complement_entropy."
    check_range(prefix, config, weight=(0, float("inf"), "[)"))
    check_choice(prefix, config, form=FORMS)
    if context.num_classes <= 2:
        raise UserError(
            f"the data have {context.num_classes} classes, so there is nothing among "
            "the others that could be made uniform; use another method"
        )

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        target, distance = uniform_others(labels, context.num_classes), None
        if config.form == "entropy":
            # The entropy of the target is log(K - 1), or 0 where there are no others.
            largest = describe_target(target, labels)["target_entropy"]
            distance = largest - complement_entropy(logits, labels)
        return mixed(logits, labels, target, soft=config.weight, distance=distance)

    return one_network(context, objective)
