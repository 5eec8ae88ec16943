"""Optimizers, one file each, selected by name or by import path.

A file defines `SUMMARY` (one line) and `make(config, schedule, decayed)`, which returns
the links of an `optax.chain`. `config` is `config.optimizer`, `schedule` maps a step to
its learning rate, and `decayed` is the mask of the parameters with weight decay. An
import path names a `factory(schedule, **options)`, like the optimizers of optax
(`optax:lion`). A factory that takes `weight_decay` and `mask` receives both.
"""

from collections.abc import Callable
from typing import Any

import jax
import optax
from absl import logging
from ml_collections import ConfigDict

from introspect_jax import options as checks
from introspect_jax.doors import Door, is_import_path, load_object
from introspect_jax.errors import UserError
from introspect_jax.optimizers import schedules
from introspect_jax.optimizers.schedules import make_schedule

__all__ = ["DOOR", "check", "default_config", "make_optimizer", "make_schedule"]

DOOR = Door(__name__, "optimizer")
DECAYED = ("kernels", "all")
PyTree = Any


def default_config() -> ConfigDict:
    """`config.optimizer`."""
    return ConfigDict(
        {
            "name": "sgd",
            "learning_rate": 0.1,
            "momentum": 0.9,
            "nesterov": True,
            "b2": 0.999,  # adamw; b1 is the momentum
            "weight_decay": 5e-4,
            "decayed": "kernels",
            "clip_norm": 0.0,  # of the gradient; 0 is off
            "schedule": "cosine",
            "warmup": 0.0,  # share of all steps, linear from 0
            "milestones": (0.5, 0.75),  # step: shares of all steps
            "decay_factor": 0.1,  # step: at each milestone
            "peak": 0.3,  # one_cycle: share of all steps until the peak
            "options": {},  # of an optimizer that is named by its import path
        }
    )


def check(config: ConfigDict) -> None:
    """Raises a UserError if the optimizer or schedule of the whole config is
    invalid."""
    config = config.optimizer
    DOOR.check_options(config)
    if is_import_path(config.name):
        load_object(config.name, "optimizer")
    else:
        DOOR.get(config.name)
    checks.check_choice("optimizer.", config, decayed=DECAYED)
    for field in ("learning_rate", "weight_decay", "clip_norm"):
        if not config[field] >= 0:
            raise UserError(
                f"optimizer.{field} must not be negative, got {config[field]}"
            )
    limits = (0, 1, "[)")
    checks.check_range("optimizer.", config, momentum=limits, b2=limits)
    schedules.check(config)


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """Builds the optimizer of `config.optimizer`, preceded by gradient clipping.

    Raises:
      UserError: The factory of an import path does not take its options, or does not
        return an `optax.GradientTransformation`.
    """

    def decayed(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, _: (
                config.decayed == "all" or getattr(path[-1], "key", "") == "kernel"
            ),
            params,
        )

    parts = []
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if is_import_path(config.name):
        parts.append(_from_outside(config, schedule, decayed))
    else:
        parts += DOOR.get(config.name)[1].make(config, schedule, decayed)
    return optax.chain(*parts)


def _from_outside(
    config: ConfigDict, schedule: optax.Schedule, decayed: Callable[[PyTree], PyTree]
) -> optax.GradientTransformation:
    if config.weight_decay and not checks.takes(
        load_object(config.name, "optimizer"), "weight_decay"
    ):
        logging.warning(
            "%s takes no weight_decay: optimizer.weight_decay=%g is not used",
            config.name,
            config.weight_decay,
        )
    return DOOR.make_outside(
        config,
        schedule,
        wanted=optax.GradientTransformation,
        weight_decay=config.weight_decay,
        mask=decayed,
    )
