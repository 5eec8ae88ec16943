"""Tf-KD reg: distillation from a virtual teacher with fixed outputs."""

from ml_collections import ConfigDict

from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.methods.terms import mixed
from introspect_jax.objectives.targets import VIRTUAL_TEACHERS, virtual_teacher
from introspect_jax.options import check_choice, check_range

SUMMARY = "distillation from a virtual teacher that is 99 % right (Tf-KD reg)"
COST = "1.00x FLOPs of standard"
SOURCE = (
    "Yuan et al., Revisiting Knowledge Distillation via Label Smoothing "
    "Regularization, CVPR 2020 (arXiv 1909.11723)"
)


def default_config() -> ConfigDict:
    """`alpha` and `temperature` T of the loss, `correct` of the virtual teacher u, and:

    * `form="paper"`: `(1 - alpha) CE + alpha T^2 KL(u_T || p_T)`, with `T^2` as in
      distillation from a teacher;
    * `form="released"`: what the code of the paper computes, `(1 - alpha) CE + alpha
      multiplier / K KL(softmax(u / T) || p)` (the mean over K is PyTorch's default):
      label smoothing, whose scale and epsilon depend on `multiplier` and K.

    Defaults are those of ResNet-18 on CIFAR-100 in that code.
    """
    return ConfigDict(
        {
            "form": "paper",
            "alpha": 0.1,
            "temperature": 20.0,
            "correct": 0.99,
            "multiplier": 100.0,  # released
        }
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, or an unknown form.
    """
    check_choice("method.tf_kd_reg.", config, form=VIRTUAL_TEACHERS)
    check_range(
        "method.tf_kd_reg.",
        config,
        alpha=(0, 1, "[]"),
        temperature=(0, float("inf"), "()"),
        correct=(0, 1, "()"),
        multiplier=(0, float("inf"), "[)"),
    )
    alpha, temperature, correct = config.alpha, config.temperature, config.correct
    form = config.form
    weight, student_temperature = alpha, temperature
    if form == "released":
        weight = alpha * config.multiplier / context.num_classes
        student_temperature = 1.0

    def objective(logits, batch, key):
        del key
        labels = batch["label"]
        target = virtual_teacher(
            labels,
            context.num_classes,
            correct=correct,
            temperature=temperature,
            form=form,
        )
        weights = {"hard": 1 - alpha, "soft": weight}
        return mixed(logits, labels, target, **weights, temperature=student_temperature)

    return one_network(context, objective)
