"""Options of introspective learning, and their checks."""

import math
from typing import Any

from absl import logging
from ml_collections import ConfigDict, FieldReference

from introspect_jax import binding
from introspect_jax.errors import UserError, unknown
from introspect_jax.methods.base import Context
from introspect_jax.methods.introspective_sources import (
    SMOOTHED_LABELS,
    SOURCES,
    explanation_config,
)
from introspect_jax.models import offers
from introspect_jax.models.protocol import map_shape
from introspect_jax.objectives.components import COMPONENTS, PERMUTATIONS
from introspect_jax.objectives.targets import SUPPORTS
from introspect_jax.options import check_choice, check_range

PREFIX = "method.introspective."
# Values of `entropy_matching`, see `default_config`.
MATCHINGS = ("example", "batch", "running")
NETWORK = "network"
# Former names of sources.
_RENAMED = {"entropy_matched": SMOOTHED_LABELS}


def default_config() -> ConfigDict:
    """Options of `introspect` and `loss_fn`, the weight schedule, and the controls.

    Schedule: `weight` grows linearly from 0 over the first `ramp_up` of all steps,
    because the explanations of an untrained network carry no information; it is always
    0 at the first step. It falls to 0 over the last `ramp_down`.

    Explained network: with `explained_decay` above 0, an exponential moving average of
    the trained network is explained. Every `explain_every`-th example of a batch is
    explained and has a soft target; the other examples cost the same as in standard
    training.

    Similarities: `source` selects what the similarities are computed from, see
    `SOURCES`; `confusion` uses the logarithms of its running means. `remove_class_mean`
    subtracts the running mean of the example's class from its similarities and keeps
    the part specific to the example. The fields that choose explanation and similarity
    are those of `binding.default_config`. The default numbers of samples and steps are
    much smaller than for a single explanation, because each costs as much as a training
    step.

    Entropy: with a `target_entropy`, the temperature of the similarities is not
    `temperature`, but the one at which the soft target has a wanted entropy over its
    support (`objectives.targets.matched_temperature`). It is a number of nats;
    `"network"`, the entropy of the trained network's outputs, whose logits the step
    computes anyway; or the name of a source, whose target at `temperature` has it and
    costs what the source costs. `entropy_matching` is `"example"` (a temperature for
    each example), `"batch"` (one at which the mean entropy is the mean wanted one; of
    each part, where a batch is taken in parts), or `"running"` (the running geometric
    mean of that temperature over the steps before; the first step, or each of its
    parts, has its own). Where the entropy cannot be reached, the nearest is taken, and
    the metric `entropy_unreached` counts it; with `"running"` it counts the batches
    that no temperature would bring there, and the entropy follows with a lag.

    Controls: `component` selects the part of the target that is used, see
    `objectives.components.COMPONENTS`. `permuted` shuffles the similarities among the
    other classes, which removes the class information. `smoothed_labels` replaces both
    label and target by smoothed labels of the same entropy, compared at temperature 1
    regardless of `student_temperature`. Unlike introspection with the support
    `"others"`, it pulls the probability of the true class down.
    """
    config = binding.default_config()
    config.update(
        {
            "temperature": 0.5,
            "target_entropy": FieldReference(
                "", field_type=object
            ),  # "": `temperature`
            "entropy_matching": "example",
            "support": "others",
            "weight": 0.1,
            "explain_every": 1,
            "student_temperature": 1.0,
            "ramp_up": 0.2,
            "ramp_down": 0.0,
            "explained_decay": 0.0,
            "remove_class_mean": False,
            "stop_gradient": True,
            "source": "explanations",
            "component": "full",
            "permutation": "fresh",  # for components that shuffle
            "class_decay": 0.99,  # decay of the running means
        }
    )
    return config


def check(config: ConfigDict) -> None:
    """Raises a UserError for options that are invalid whatever the data."""
    binding.check(config, PREFIX)
    _check_renamed(config, "source")
    check_choice(
        PREFIX,
        config,
        support=SUPPORTS,
        source=SOURCES,
        component=COMPONENTS,
        permutation=PERMUTATIONS,
        entropy_matching=MATCHINGS,
    )
    positive = (0, float("inf"), "()")
    check_range(
        PREFIX,
        config,
        temperature=positive,
        student_temperature=positive,
        weight=(0, 1, "[]") if config.support == "all" else (0, float("inf"), "[)"),
        ramp_up=(0, 1, "[]"),
        ramp_down=(0, 1, "[]"),
        explained_decay=(0, 1, "[)"),
        class_decay=(0, 1, "[)"),
    )
    _check_entropy(config)
    if "covariance" in sources_of(config):
        binding.check(explanation_config(config, "covariance"), PREFIX)
    if config.component == "ground_truth" and config.support == "others":
        raise UserError(
            "method.introspective.component=ground_truth needs a target that has mass "
            "on the label; use --config.method.introspective.support=all"
        )
    if config.explain_every < 1:
        raise UserError(
            "method.introspective.explain_every must be at least 1, got "
            f"{config.explain_every}"
        )
    if config.explained_decay and not config.stop_gradient:
        raise UserError(
            "method.introspective.stop_gradient=False has no meaning with an "
            "explained_decay: the average that is explained is a constant"
        )
    if config.source == SMOOTHED_LABELS and config.component != "full":
        raise UserError(
            f"method.introspective.source={SMOOTHED_LABELS} knows nothing of classes "
            f"and has no components; got component={config.component}"
        )


def check_context(config: ConfigDict, context: Context) -> None:
    """Checks the options for a network and its number of classes.

    Raises:
      UserError: Two classes have no others, or an entropy that no target can have.
    """
    classes = context.num_classes
    others = config.support == "others" or config.component in ("others", "uniform")
    if others and classes <= 2:
        raise UserError(
            f"the data have {classes} classes, so with support='others' there is "
            "nothing to distribute; use --config.method.introspective.support=all"
        )
    wanted = wanted_entropy(config)
    covered = classes - 1 if config.support == "others" else classes
    if isinstance(wanted, float) and wanted > math.log(covered):
        raise UserError(
            f"{PREFIX}target_entropy is {config.target_entropy}, and a target over "
            f"{covered} classes has at most log({covered}) = {math.log(covered):.3f} "
            "nats"
        )
    if "covariance" in sources_of(config):
        height, width, _ = map_shape(context.model, context.image_shape)
        if height * width == 1:
            raise UserError(
                f"{PREFIX}source=covariance: the last maps of the network have one "
                "position, which does not vary over space; choose another network, or "
                "larger images"
            )
    if "own_logits" in sources_of(config) and not offers(context.model, "last_layer"):
        logging.warning(
            "%ssource=own_logits: the network has no 'last_layer', so the bias of its "
            "logits is unknown, and stays in them",
            PREFIX,
        )


def wanted_entropy(config: ConfigDict) -> float | str:
    """The entropy that `target_entropy` asks for: nats, `"network"`, the name of a
    source, or `""` if the temperature is given."""
    value = config.target_entropy
    try:
        return float(value)
    except ValueError:
        return value


def sources_of(config: ConfigDict) -> list[str]:
    """The sources that the config uses, at most two."""
    named = [config.source, wanted_entropy(config)]
    return [name for name in SOURCES if name in named]


def _check_entropy(config: ConfigDict) -> None:
    value: Any = config.target_entropy
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(
            f"{PREFIX}target_entropy must be a number of nats or a string, got "
            f"{value!r}"
        )
    wanted = wanted_entropy(config)
    if isinstance(wanted, float):
        if not 0 <= wanted < math.inf:
            raise UserError(f"{PREFIX}target_entropy must lie in [0, inf), got {value}")
        return
    _check_renamed(config, "target_entropy")
    if wanted == SMOOTHED_LABELS:
        raise UserError(
            f"{PREFIX}target_entropy={SMOOTHED_LABELS}: smoothed labels have the "
            "entropy of the label with an explanation's target; name another source"
        )
    names = ("", NETWORK, *(name for name in SOURCES if name != SMOOTHED_LABELS))
    if wanted not in names:
        listed = ("a number of nats", *names[1:])
        raise UserError(unknown(f"{PREFIX}target_entropy", wanted, listed))


def _check_renamed(config: ConfigDict, field: str) -> None:
    """Raises a UserError for the former name of a source."""
    old = config[field]
    if old in _RENAMED:
        raise UserError(
            f"unknown {PREFIX}{field} {old!r} (did you mean {_RENAMED[old]!r}, its new "
            f"name?); there are: {', '.join(SOURCES)}"
        )
