"""Training methods, one file each, selected by name or by import path.

A file defines `SUMMARY` (one line), `COST` (FLOPs of a step against `standard`, as
`benchmarks/method_cost.py` finds them), `SOURCE`, `default_config()` (its options,
`config.method.<file>`) and `make(config, context) -> Method`. A method that needs a
teacher defines `TEACHER`: `"any network"`, or `"same network"` for a teacher with the
network of the student; an optional `taught_by` says how that teacher is trained if none
is given (`taught_by` below). `FILES` names the options that are paths of files whose
content the run depends on. An optional `check(config)` checks the options before any
data are read. To add a method, add its file; the folder is scanned.

An import path names a `factory(context, **options) -> Method`. Its options are
`config.method.options`, and `factory.TEACHER` and `factory.taught_by` have the meaning
of those of a file.
"""

from typing import Any

from ml_collections import ConfigDict

from introspect_jax import models
from introspect_jax.doors import Door, is_import_path, load_object
from introspect_jax.errors import UserError
from introspect_jax.methods.base import BY_EXAMPLE, LAST_BATCH, MEAN, Context, Method
from introspect_jax.methods.teaching import Teacher

__all__ = [
    "BY_EXAMPLE",
    "DOOR",
    "LAST_BATCH",
    "MEAN",
    "Context",
    "Method",
    "Teacher",
    "check",
    "default_config",
    "make",
    "modules",
    "taught_by",
    "teacher_kind",
]

DOOR = Door(
    __name__,
    "method",
    # They mix the examples of a batch and go with any method that takes soft labels.
    also={
        "(mixup)": "--config.data.augment.mixup=1.0, with most methods; 1.00x FLOPs; "
        "Zhang et al., mixup, ICLR 2018 (arXiv 1710.09412)",
        "(cutmix)": "--config.data.augment.cutmix=1.0, with most methods; 1.00x FLOPs; "
        "Yun et al., CutMix, ICCV 2019 (arXiv 1905.04899)",
    },
)


# Of teachers; a `taught_by` that never comes to an end must not hang.
_LONGEST_CHAIN = 100


def modules():
    """Maps the name of each method to its module, in alphabetical order."""
    return DOOR.entries


def default_config() -> ConfigDict:
    """Returns `config.method`: name, teacher, and a group of options per method."""
    return ConfigDict(
        {
            "name": "introspective",
            # Work folder of a finished run; "": one that differs from this run in
            # the fields below is trained first, by standard training (`taught_by`).
            "teacher": "",
            "teacher_model": "",  # its model.name; "": that of this run
            "teacher_seed": 1000,
            # Its data.train_examples; 0: those of this run; -1: all there are.
            "teacher_examples": 0,
            "teacher_steps": 0,  # its total_steps; 0: those of this run
            "options": {},  # of a method that is named by its import path
            **{name: m.default_config() for name, m in DOOR.entries.items()},
        }
    )


def make(config: ConfigDict, context: Context) -> Method:
    """Builds the method that `config.method` names.

    Raises:
      UserError: The method does not exist, or an option is out of range.
    """
    if is_import_path(config.name):
        return DOOR.make_outside(config, context, wanted=Method)
    name, module = DOOR.get(config.name)
    return module.make(config[name], context)


def teacher_kind(name: str) -> str | None:
    """Returns the teacher needed: `"any network"`, `"same network"` or None."""
    return getattr(_part(name), "TEACHER", None)


def taught_by(method: ConfigDict) -> tuple[ConfigDict, int]:
    """Returns `config.method` and `config.seed` of the teacher that is trained if none
    is given.

    It is standard training with `method.teacher_seed`, unless the file of the method
    has a function `taught_by(method, taught)`, which returns the two. `taught` is
    `config.method` of standard training, to be changed. A teacher may have a teacher;
    the last of them must have none.

    Args:
      method: `config.method` of the student.
    """
    taught = default_config()
    taught.name = "standard"
    own = getattr(_part(method.name), "taught_by", None)
    return own(method, taught) if own else (taught, method.teacher_seed)


def _part(name: str) -> Any:
    """The file of a method, or the factory at an import path."""
    return load_object(name, "method") if is_import_path(name) else DOOR.get(name)[1]


def files(config: ConfigDict) -> dict[str, str]:
    """Maps fields of the config to the paths of the files that the method reads.

    Args:
      config: The whole config.
    """
    name = config.method.name
    if is_import_path(name):
        return {}
    name, module = DOOR.get(name)
    options = {
        option: config.method[name][option] for option in getattr(module, "FILES", ())
    }
    return {f"method.{name}.{option}": path for option, path in options.items() if path}


def check(config: ConfigDict) -> None:
    """Raises a UserError if the method or its teacher is invalid.

    Args:
      config: The whole config.
    """
    method = config.method
    DOOR.check_options(method)
    kind = teacher_kind(method.name)
    if not is_import_path(method.name):
        name, module = DOOR.get(method.name)
        if hasattr(module, "check"):
            module.check(method[name])
    if kind is None and method.teacher:
        takers = [name for name in DOOR.entries if teacher_kind(name)]
        raise UserError(
            f"method.teacher is {method.teacher!r}, but {method.name!r} learns from no "
            f"teacher; those that do: {', '.join(takers)}"
        )
    if kind is None:
        return
    taught_by(method)  # raises an error if its teacher cannot be that of `method`
    if not method.teacher:
        _check_trained_first(config, kind)


def _check_trained_first(config: ConfigDict, kind: str) -> None:
    """Checks the fields of a teacher that is trained first."""
    method = config.method
    if method.teacher_model:
        models.from_config(teacher_model(config), 2)
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
    _check_seeds(config)
    if kind == "same network" and method.teacher_model not in ("", config.model.name):
        raise UserError(
            f"{method.name} learns from a network of its own kind; got method."
            f"teacher_model={method.teacher_model} for model.name={config.model.name}: "
            "leave it empty, or use --config.method.name=kd"
        )


def _check_seeds(config: ConfigDict) -> None:
    """Checks the seeds of a teacher that is trained first, and of its own teachers."""
    method, seeds = config.method, []
    while teacher_kind(method.name):
        method, seed = taught_by(method)
        seeds.append(seed)
        if len(seeds) > _LONGEST_CHAIN:
            raise UserError(
                f"{config.method.name} has more than {_LONGEST_CHAIN} teachers one "
                "after the other: its `taught_by` must come to a method without"
            )
    if max(seeds) >= 2**32:
        raise UserError(
            f"the teachers that are trained first have the seeds {min(seeds)} to "
            f"{max(seeds)}, which must be below 2**32; choose a smaller "
            "method.teacher_seed"
        )
    if config.seed not in seeds:
        return
    if len(seeds) == 1:
        reason = f"method.teacher_seed and seed are both {config.seed}"
    else:
        reason = (
            f"the teachers that are trained first have the seeds {min(seeds)} to "
            f"{max(seeds)}, and seed is {config.seed}"
        )
    raise UserError(
        f"{reason}: the teacher would start from the values and see the order of this "
        "run; choose another"
    )


def teacher_model(config: ConfigDict) -> ConfigDict:
    """Returns `config.model` of the teacher that is trained if none is given."""
    model = ConfigDict(config.model.to_dict())
    wanted = config.method.teacher_model
    if wanted and wanted != model.name:
        model.name = wanted
        model.options = ConfigDict()  # they are of the student's network
    return model.lock()
