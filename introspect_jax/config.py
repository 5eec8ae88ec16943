"""The fields of every experiment, their defaults and their checks."""

import hashlib
import json
from typing import cast

import numpy as np
from ml_collections import ConfigDict

from introspect_jax import binding, methods, models
from introspect_jax.errors import UserError, nearest
from introspect_jax.train import optimizer, parallel

# Part of the names of runs; another word whenever a default changes its value, so that
# no run with the old one is taken for one with the new. New fields change nothing.
DEFAULTS = ""
_LARGEST = float(np.finfo(np.float32).max)


def default_config() -> ConfigDict:
    """What `configs/*.py` start from; a field that is not here does not exist.

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
            "model": {
                "name": "resnet20",
                "stem": "small",
                "dtype": "float32",
                "norm": "batch",
                "remat": False,  # blocks are computed again for gradients: less memory
            },
            "data": {
                "name": "cifar10",
                "data_dir": "",  # "": TFDS_DATA_DIR, or TFDS's own default
                "train_split": "train",
                "test_split": "test",
                "validation_fraction": 0.1,  # of the training split
                "train_examples": 0,  # of what is left for training; 0: all
                "label_noise": 0.0,  # share of wrong labels in the training split
                "load_size": 0,  # images are resized to this; 0: as they are
                "image_size": 0,  # the network sees crops of this; 0: load_size
                "mean": (0.5,),  # of pixels in [0, 1], one for all channels or each
                "std": (0.25,),
                "device_megabytes": 2000,  # larger training splits are streamed
                "read_threads": 4,
                "augment": {
                    "crop_padding": 0,
                    "flip": False,
                    "cutout": 0,  # side of the square
                    "mixup": 0.0,  # alpha
                    "cutmix": 0.0,  # alpha
                },
            },
            "method": {
                "name": "introspective",
                # Work folder of a finished run; "": one that differs from this run in
                # the fields below is trained first, by standard training.
                "teacher": "",
                "teacher_model": "",  # its model.name; "": that of this run
                "teacher_seed": 1000,
                # Its data.train_examples; 0: those of this run; -1: all there are.
                "teacher_examples": 0,
                "teacher_steps": 0,  # its total_steps; 0: those of this run
            },
            "optimizer": optimizer.default_config(),
            "parallel": parallel.default_config(),
        }
    )
    for name, module in methods.modules().items():
        config.method[name] = module.default_config()
    return config.lock()


def validate(config: ConfigDict) -> None:
    """Raises a UserError for values that cannot be, before anything is read."""
    defaults, given = fields(default_config()), fields(config)
    missing, more = defaults.keys() - given.keys(), given.keys() - defaults.keys()
    if missing:
        raise UserError(
            f"the config has no field {min(missing)!r}; start from "
            "introspect_jax.config.default_config(), as configs/*.py do"
        )
    if more:
        raise UserError(
            f"unknown field config.{min(more)}{nearest(min(more), defaults)}"
        )
    for field, value in given.items():
        _check_type(field, value, defaults[field])
    for field, low in (
        ("total_steps", 1),
        ("batch_size", 1),
        ("eval_batch_size", 1),
        ("log_steps", 1),
        ("eval_steps", 1),
        ("checkpoint_steps", 1),
        ("checkpoints_kept", 1),
        ("accumulation_steps", 1),
        ("seed", 0),
        ("data.train_examples", 0),
        ("data.load_size", 0),
        ("data.image_size", 0),
        ("data.device_megabytes", 0),
        ("data.read_threads", 0),
    ):
        value = _get(config, field)
        if value < low:
            raise UserError(f"{field} must be at least {low}, got {value}")
    if config.data.read_threads > 1000:
        raise UserError(
            f"data.read_threads must be at most 1000, got {config.data.read_threads}"
        )
    if config.seed >= 2**32:
        raise UserError(f"seed must be below 2**32, got {config.seed}")
    for field in ("average_decay", "data.validation_fraction", "data.label_noise"):
        if not 0 <= _get(config, field) < 1:
            raise UserError(f"{field} must lie in [0, 1), got {_get(config, field)}")
    methods.check_name(config.method.name)
    _check_teacher(config)
    # The pictures of every run explain by these options, whatever its method.
    binding.check(config.method.introspective)
    models.build(**config.model, num_classes=2)
    optimizer.check(config.optimizer)
    parallel.check(config.parallel, config.batch_size)
    replicas = config.parallel.replicas if config.parallel.mode == "pmapped" else 1
    if config.accumulation_steps * replicas > config.batch_size:
        raise UserError(
            f"accumulation_steps is {config.accumulation_steps}, more than the "
            f"{config.batch_size // replicas} examples that there are"
            + (" for a replica" if replicas > 1 else " in a batch")
        )


def _check_type(field: str, value: object, default: object) -> None:
    """Raises a UserError for what is not of the kind of the default, or too large for
    the device; `None` fits every field of a ConfigDict."""
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


def _check_teacher(config: ConfigDict) -> None:
    method = config.method
    kind = methods.teacher_kind(method.name)
    if kind is None and method.teacher:
        takers = [name for name in methods.modules() if methods.teacher_kind(name)]
        raise UserError(
            f"method.teacher is {method.teacher!r}, but {method.name!r} learns from no "
            f"teacher; those that do: {', '.join(takers)}"
        )
    if kind is None or method.teacher:
        return
    if method.teacher_model:
        models.build(method.teacher_model, 2)
    if not 0 <= method.teacher_seed < 2**32:
        raise UserError(
            f"method.teacher_seed must lie in [0, 2**32), got {method.teacher_seed}"
        )
    if method.teacher_examples < -1:
        raise UserError(
            "method.teacher_examples must be -1 (all), 0 (those of this run) or their "
            f"number, got {method.teacher_examples}"
        )
    if method.teacher_steps < 0:
        raise UserError(
            "method.teacher_steps must be 0 (those of this run) or their number, got "
            f"{method.teacher_steps}"
        )
    if method.teacher_seed == config.seed:
        raise UserError(
            f"method.teacher_seed and seed are both {config.seed}: the teacher would "
            "start from the values and see the order of this run; choose another"
        )
    if kind == "same network" and method.teacher_model not in ("", config.model.name):
        raise UserError(
            f"{method.name} learns from a network of its own kind; got method."
            f"teacher_model={method.teacher_model} for model.name={config.model.name}: "
            "leave it empty, or use --config.method.name=kd"
        )


def fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Dotted name -> value of every field."""
    flat: dict[str, object] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            flat |= fields(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def to_json(config: ConfigDict) -> str:
    """The resolved config, the same text for the same config."""
    return json.dumps(config.to_dict(), indent=2, sort_keys=True) + "\n"


def config_hash(config: ConfigDict) -> str:
    """Eight hexadecimal digits that tell configs apart.

    Of what differs from the defaults (and of `DEFAULTS`), so that a field that is new
    in a later version does not give another name to runs that do not use it.
    """
    defaults, now = fields(default_config()), fields(config)
    set_here = {name: v for name, v in now.items() if v != defaults.get(name)}
    text = DEFAULTS + json.dumps(set_here, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _get(config: ConfigDict, field: str):
    for name in field.split("."):
        config = config[name]
    return config
