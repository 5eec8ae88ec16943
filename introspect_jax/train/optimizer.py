"""Learning-rate schedules and optimisers, from optax."""

import jax
import optax
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("cosine", "step", "one_cycle", "constant")
DECAYED = ("kernels", "all")


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
        }
    )


def check(config: ConfigDict) -> None:
    """Raises a UserError for an optimiser or schedule that cannot be."""
    for field, options in (
        ("name", OPTIMIZERS),
        ("schedule", SCHEDULES),
        ("decayed", DECAYED),
    ):
        if config[field] not in options:
            raise UserError(unknown(f"optimizer.{field}", config[field], options))
    for field, low in (("learning_rate", 0), ("weight_decay", 0), ("clip_norm", 0)):
        if not config[field] >= low:
            raise UserError(
                f"optimizer.{field} must not be negative, got {config[field]}"
            )
    if not config.decay_factor > 0:
        raise UserError(
            f"optimizer.decay_factor must be above 0, got {config.decay_factor}"
        )
    for field in ("momentum", "b2"):
        if not 0 <= config[field] < 1:
            raise UserError(
                f"optimizer.{field} must lie in [0, 1), got {config[field]}"
            )
    if not 0 <= config.warmup < 1:
        raise UserError(
            f"optimizer.warmup is a share of all steps, in [0, 1); got {config.warmup}"
        )
    shares = (*config.milestones, config.peak)
    if not all(0 < share < 1 for share in shares):
        raise UserError(
            "optimizer.milestones and optimizer.peak are shares of all steps, between "
            f"0 and 1; got {tuple(config.milestones)} and {config.peak}"
        )


def make_schedule(config: ConfigDict, total_steps: int) -> optax.Schedule:
    """Step -> learning rate, with a linear warm-up where one is asked for.

    `one_cycle` brings its own in place of it (Smith and Topin 2018, cosine form).
    """
    rate, warmup = config.learning_rate, round(config.warmup * total_steps)
    if config.schedule == "one_cycle":
        return optax.cosine_onecycle_schedule(total_steps, rate, pct_start=config.peak)
    steps = max(total_steps - warmup, 1)
    if config.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(rate, steps)
    elif config.schedule == "step":
        boundaries: dict[int, float] = {}
        for share in config.milestones:
            step = round(share * total_steps) - warmup
            boundaries[step] = boundaries.get(step, 1.0) * config.decay_factor
        schedule = optax.piecewise_constant_schedule(rate, boundaries)
    else:
        schedule = optax.constant_schedule(rate)
    if not warmup:
        return schedule
    return optax.join_schedules(
        [optax.linear_schedule(0.0, rate, warmup), schedule], [warmup]
    )


def make_optimizer(
    config: ConfigDict, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """The optimiser.

    SGD adds the weight decay to the gradient before the momentum, as in the recipes
    that the published numbers come from; AdamW decouples it.
    """

    def decayed(params):
        return jax.tree_util.tree_map_with_path(
            lambda path, _: config.decayed == "all" or path[-1].key == "kernel", params
        )

    parts = []
    if config.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if config.name == "adamw":
        parts.append(
            optax.adamw(
                schedule,
                b1=config.momentum,
                b2=config.b2,
                weight_decay=config.weight_decay,
                mask=decayed,
            )
        )
    else:
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=decayed))
        momentum = config.momentum or None
        parts.append(optax.sgd(schedule, momentum, nesterov=config.nesterov))
    return optax.chain(*parts)
