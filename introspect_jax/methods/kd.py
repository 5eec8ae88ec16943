"""Knowledge distillation from a teacher, in full or one component of it."""

import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.methods.base import Context, Method, one_network
from introspect_jax.methods.terms import (
    mixed,
    permutation_constant,
    shuffle_keys,
    teacher_constant,
    teacher_logits,
)
from introspect_jax.objectives.components import (
    COMPONENTS,
    PERMUTATIONS,
    component,
    component_loss,
)
from introspect_jax.objectives.targets import teacher_target
from introspect_jax.options import check_choice, check_range

SUMMARY = "distillation from a teacher, or from one component of what it says"
COST = "1.33x FLOPs of standard, with a teacher of its kind"
SOURCE = (
    "Hinton, Vinyals and Dean, Distilling the Knowledge in a Neural Network, 2015 "
    "(arXiv 1503.02531); components: objectives/components.py"
)
TEACHER = "any network"


def default_config() -> ConfigDict:
    """`(1 - alpha) CE + alpha T^2 KL(component of p_T of the teacher || p_T)`.

    With `component="cwtm"` the second term is the cross entropy, weighted by the
    teacher's confidence at temperature 1.

    Defaults are those of RepDistiller and of most code since (Tian et al. 2020).
    """
    return ConfigDict(
        {
            "alpha": 0.9,
            "temperature": 4.0,
            "component": "full",
            "permutation": "fresh",  # of the components that shuffle
        }
    )


def make(config: ConfigDict, context: Context) -> Method:
    """The method.

    Raises:
      UserError: an option out of range, or a component that two classes do not have.
    """
    check_choice("method.kd.", config, component=COMPONENTS, permutation=PERMUTATIONS)
    check_range(
        "method.kd.", config, alpha=(0, 1, "[]"), temperature=(0, float("inf"), "()")
    )
    if config.component in ("others", "uniform") and context.num_classes <= 2:
        raise UserError(
            f"the data have {context.num_classes} classes, so the component "
            f"{config.component!r} is always the same; use another"
        )
    alpha, temperature, name = config.alpha, config.temperature, config.component
    permutation = config.permutation

    def constants(teacher):
        given = teacher_constant(teacher)
        if name == "class_average":
            means = teacher.mean_probs(temperature)
            given["class_means"] = jnp.asarray(means, jnp.float32)
        return given | permutation_constant(context, name)

    def objective(logits, batch, key):
        labels = batch["label"]
        # As a weight, a teacher's confidence is that of its own probabilities.
        softened = 1.0 if name == "cwtm" else temperature
        target = component(
            teacher_target(teacher_logits(context, batch), softened),
            labels,
            name,
            keys=shuffle_keys(permutation, batch, key),
            class_means=batch["constants"].get("class_means"),
        )
        distance = component_loss(logits, labels, target, name, temperature)
        weights = {"hard": 1 - alpha, "soft": alpha}
        return mixed(logits, labels, target, **weights, distance=distance)

    return one_network(context, objective, constants=constants)
