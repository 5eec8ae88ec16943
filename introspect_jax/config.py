"""Composes the config of an experiment from the fields of its parts, and checks it.

Each part (network, data, method, ...) has its own fields and checks in its own folder;
those of the run itself are here.
"""

import hashlib
import json
from typing import cast

import numpy as np
from ml_collections import ConfigDict

from introspect_jax import binding, data, methods, models, optimizers
from introspect_jax import options as checks
from introspect_jax.errors import UserError, nearest
from introspect_jax.train import parallel

# Group of the config -> its fields, and what checks them in the whole config.
PARTS = {
    "model": (models.default_config, models.check),
    "data": (data.default_config, data.check),
    "method": (methods.default_config, methods.check),
    "optimizer": (optimizers.default_config, optimizers.check),
    "parallel": (parallel.default_config, parallel.check),
    "explain": (binding.pictures_config, binding.check_pictures),
}
# Of parts from outside, which have fields that are not known here.
OPTIONS = "options"
_COUNTS = (
    "total_steps",
    "batch_size",
    "eval_batch_size",
    "log_steps",
    "eval_steps",
    "checkpoint_steps",
    "checkpoints_kept",
    "accumulation_steps",
)
# Folders, which may be moved. What is in them is compared by its digest.
LOCATIONS = ("data.data_dir", "method.teacher")
# Of several types: the part that has them checks them.
_MIXED = ("data.augment.flip", "method.introspective.target_entropy")
# Field -> new name of a value -> its former one. Runs keep the names and the records
# that they have under it.
_FORMER = {"method.introspective.source": {"smoothed_labels": "entropy_matched"}}
_LARGEST = float(np.finfo(np.float32).max)


def default_config() -> ConfigDict:
    """Returns the config that `configs/*.py` start from.

    A field that is not here does not exist, except in `model.options`, `data.options`,
    `method.options` and `optimizer.options`.

    Steps count batches; sizes are pixels; shares lie in [0, 1].
    """
    config = ConfigDict(
        {
            "seed": 0,
            "total_steps": 1000,
            "batch_size": 128,
            "eval_batch_size": 256,
            "log_steps": 50,
            "eval_steps": 500,
            "checkpoint_steps": 500,
            "checkpoints_kept": 2,  # the newest; the best on validation comes on top
            "evaluate_test": True,  # at the end; not in runs that a choice is made from
            "average_decay": 0.0,  # exponential average of the weights; 0 is off
            # A step in this many pieces, one after the other, for less memory.
            "accumulation_steps": 1,
            **{name: fields_of() for name, (fields_of, _) in PARTS.items()},
        }
    )
    return lock(config)


def lock(config: ConfigDict) -> ConfigDict:
    """Locks all fields but the `options` of parts from outside; returns the config."""
    config.lock()
    for name in PARTS:
        if OPTIONS in config[name]:
            config[name][OPTIONS].unlock()
    return config


def validate(config: ConfigDict) -> None:
    """Raises a UserError if the config is inconsistent; reads no data."""
    _check_fields(config)
    checks.check_least("", config, **dict.fromkeys(_COUNTS, 1), seed=0)
    if config.seed >= 2**32:
        raise UserError(f"seed must be below 2**32, got {config.seed}")
    checks.check_range("", config, average_decay=(0, 1, "[)"))
    for _, check in PARTS.values():
        check(config)


def _check_fields(config: ConfigDict) -> None:
    """Raises a UserError for unknown fields and wrong types."""
    defaults, given = fields(default_config()), fields(config)
    free = {name for name in given if is_option(name)}
    missing, more = defaults.keys() - given.keys(), given.keys() - defaults.keys()
    if missing:
        raise UserError(
            f"the config has no field {min(missing)!r}; start from "
            "introspect_jax.config.default_config(), as configs/*.py do"
        )
    if more - free:
        field = min(more - free)
        raise UserError(f"unknown field config.{field}{nearest(field, defaults)}")
    for field, value in given.items():
        if field in free:
            _check_option(field, value)
        elif field not in _MIXED:
            _check_type(field, value, defaults[field])


def is_option(field: str) -> bool:
    """Whether the field belongs to `<part>.options`."""
    words = field.split(".")
    return len(words) > 2 and words[0] in PARTS and words[1] == OPTIONS


def _check_option(field: str, value: object) -> None:
    """Raises a UserError for a value that JSON cannot represent."""
    for entry in value if isinstance(value, list | tuple) else (value,):
        if not isinstance(entry, bool | int | float | str | None):
            raise UserError(
                f"{field} must be a number, a string, True, False, None, or several "
                f"of them, got {value!r}"
            )


def _check_type(field: str, value: object, default: object) -> None:
    """Raises a UserError if a value does not have the type of the default or is too
    large for the device; a ConfigDict accepts `None` for every field."""
    if isinstance(default, bool | str):
        if not isinstance(value, type(default)):
            kind = "True or False" if isinstance(default, bool) else "a string"
            raise UserError(f"{field} must be {kind}, got {value!r}")
        return
    several, whole = isinstance(default, tuple), isinstance(default, int)
    numbers = value if several and isinstance(value, tuple) else (value,)
    kinds = int if whole else (int, float)
    if (
        several != isinstance(value, tuple)
        or not numbers
        or not all(isinstance(n, kinds) and not isinstance(n, bool) for n in numbers)
    ):
        kind = "a whole number" if whole else "a number"
        kind = "numbers, such as (0.5,)" if several else kind
        raise UserError(f"{field} must be {kind}, got {value!r}")
    if whole:
        # Seeds have their own limit.
        if not field.endswith("seed") and cast(int, value) >= 2**31:
            raise UserError(f"{field} must be below 2**31, got {value}")
    elif not all(abs(n) <= _LARGEST for n in numbers):
        raise UserError(f"{field} must be finite (as float32), got {value!r}")


def fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Maps the dotted name of every field to its value."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= fields(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON; equal configs give equal text."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def identity(config: ConfigDict) -> dict[str, object]:
    """Maps the dotted names of the fields that identify a run to their values: all but
    the locations of its data and its teacher. Renamed values have their former names.
    """
    return {
        n: former_value(n, value)
        for n, value in fields(config).items()
        if n not in LOCATIONS
    }


def former_value(field: str, value: object) -> object:
    """The value as versions called it that wrote the first records of such runs."""
    if field not in _FORMER or not isinstance(value, str):
        return value
    return _FORMER[field].get(value, value)


def with_new_values(config: ConfigDict) -> ConfigDict:
    """A stored config, with the values that are called otherwise now."""
    config = ConfigDict(config.to_dict())
    stored = fields(config)
    for field, values in _FORMER.items():
        for new, former in values.items():
            if stored.get(field) == former:
                config.update_from_flattened_dict({field: new})
    return config


def config_hash(config: ConfigDict, **known: str) -> str:
    """Returns eight hexadecimal digits that identify a run.

    Of what differs from the defaults, so that a field that is new in a later version
    does not give another name to runs that do not use it. (A run whose defaults had
    other values keeps them in its folder, which is then refused: `open_workdir`.)

    Args:
      config: Of the run.
      known: What tells runs of one config apart, such as the digest of the data.
    """
    defaults = fields(default_config())
    set_here = {
        name: value
        for name, value in identity(config).items()
        if name not in defaults or value != defaults[name]
    }
    text = json.dumps(set_here | known, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]
