"""Tf-KD self: distillation from a trained network of the same kind."""

from ml_collections import ConfigDict

from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.methods.terms import mixed, teacher_constant, teacher_logits
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_choice, check_range

SUMMARY = "distillation from a trained network of the same kind (Tf-KD self)"
COST = "1.33x FLOPs of standard, with a teacher of its kind"
SOURCE = (
    "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing "
    "Regularization, CVPR 2020 (arXiv 1909.11723)"
)
TEACHER = "same network"
FORMS = ("paper", "released")


def default_config() -> ConfigDict:
    """`alpha` and `temperature` T of the loss, and:

    * `form="paper"`: `(1 - alpha) CE + alpha T^2 KL(p_T of the teacher || p_T)`;
    * `form="released"`: the second term times `multiplier / K`, what the code of the
      paper computes (the mean over K is PyTorch's default).

    Defaults are those of ResNet-18 on CIFAR-100 in that code.
    """
    return ConfigDict(
        {
            "form": "paper",
            "alpha": 0.95,
            "temperature": 6.0,
            "multiplier": 50.0,  # released
        }
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, or an unknown form.
    """
    check_choice("method.tf_kd_self.", config, form=FORMS)
    check_range(
        "method.tf_kd_self.",
        config,
        alpha=(0, 1, "[]"),
        temperature=(0, float("inf"), "()"),
        multiplier=(0, float("inf"), "[)"),
    )
    alpha, temperature = config.alpha, config.temperature
    weight = alpha
    if config.form == "released":
        weight = alpha * config.multiplier / context.num_classes

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        target = teacher_target(teacher_logits(context, batch), temperature)
        weights = {"hard": 1 - alpha, "soft": weight}
        return mixed(logits, labels, target, **weights, temperature=temperature)

    return one_network(context, objective, constants=teacher_constant)
