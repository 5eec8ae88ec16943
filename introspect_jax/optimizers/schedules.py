"""Learning rate schedules, built from those of optax."""

import optax
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.options import check_choice


def check(config: ConfigDict) -> None:
    """Raises a UserError if the schedule of `config.optimizer` is invalid."""
    check_choice("optimizer.", config, schedule=_SCHEDULES)
    if not config.decay_factor > 0:
        raise UserError(
            f"optimizer.decay_factor must be above 0, got {config.decay_factor}"
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
    """Returns the learning rate as a function of the step, with linear warm-up.

    `one_cycle` has its own warm-up instead (Smith and Topin 2018, cosine form).
    """
    rate, warmup = config.learning_rate, round(config.warmup * total_steps)
    if config.schedule == "one_cycle":
        warmup = 0
    schedule = _SCHEDULES[config.schedule](config, total_steps, warmup)
    if not warmup:
        return schedule
    return optax.join_schedules(
        [optax.linear_schedule(0.0, rate, warmup), schedule], [warmup]
    )


def _cosine(config: ConfigDict, total_steps: int, warmup: int) -> optax.Schedule:
    return optax.cosine_decay_schedule(
        config.learning_rate, max(total_steps - warmup, 1)
    )


def _linear(config: ConfigDict, total_steps: int, warmup: int) -> optax.Schedule:
    return optax.linear_schedule(
        config.learning_rate, 0.0, max(total_steps - warmup, 1)
    )


def _step(config: ConfigDict, total_steps: int, warmup: int) -> optax.Schedule:
    boundaries: dict[int, float] = {}
    for share in config.milestones:
        step = round(share * total_steps) - warmup
        boundaries[step] = boundaries.get(step, 1.0) * config.decay_factor
    return optax.piecewise_constant_schedule(config.learning_rate, boundaries)


def _constant(config: ConfigDict, total_steps: int, warmup: int) -> optax.Schedule:
    del total_steps, warmup
    return optax.constant_schedule(config.learning_rate)


def _one_cycle(config: ConfigDict, total_steps: int, warmup: int) -> optax.Schedule:
    del warmup
    return optax.cosine_onecycle_schedule(
        total_steps, config.learning_rate, pct_start=config.peak
    )


# What follows the warm-up.
_SCHEDULES = {
    "cosine": _cosine,
    "linear": _linear,
    "step": _step,
    "one_cycle": _one_cycle,
    "constant": _constant,
}
