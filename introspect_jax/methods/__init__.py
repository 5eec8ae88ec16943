"""The training methods, one file each: by name, or by the import path of one's own.

A file holds `SUMMARY` (one line), `SOURCE`, `default_config()` (its options,
`config.method.<file>`) and `make(config, context) -> Method`. With `TEACHER` it learns
from a teacher: `"any network"`, or one of the `"same network"` as its own; a
`check(config)` checks options before any data are read. Adding a method is adding its
file: this door scans the folder.

From outside a method is a function `factory(context, **options) -> Method`, its options
are `config.method.options`, and `factory.TEACHER` says the same as that of a file.
"""

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
    "teacher_kind",
]

DOOR = Door(__name__, "method")


def modules():
    """Name -> module of every method, in alphabetical order."""
    return DOOR.entries


def default_config() -> ConfigDict:
    """`config.method`: which one, its teacher, and the options of each in its group."""
    return ConfigDict(
        {
            "name": "introspective",
            # Work folder of a finished run; "": one that differs from this run in
            # the fields below is trained first, by standard training.
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
    """The method that `config.method` names.

    Raises:
      UserError: No such method, or options that are out of range.
    """
    if is_import_path(config.name):
        return DOOR.make_outside(config, context, wanted=Method)
    name, module = DOOR.get(config.name)
    return module.make(config[name], context)


def teacher_kind(name: str) -> str | None:
    """Which teacher the method needs: `"any network"`, `"same network"` or None."""
    part = load_object(name, "method") if is_import_path(name) else DOOR.get(name)[1]
    return getattr(part, "TEACHER", None)


def check(config: ConfigDict) -> None:
    """Raises a UserError for a method or a teacher that cannot be.

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
    if kind is None or method.teacher:
        return
    _check_trained_first(config, kind)


def _check_trained_first(config: ConfigDict, kind: str) -> None:
    """The same for the fields of a teacher that is trained first."""
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


def teacher_model(config: ConfigDict) -> ConfigDict:
    """`config.model` of the teacher that is trained where none is given."""
    model = ConfigDict(config.model.to_dict())
    wanted = config.method.teacher_model
    if wanted and wanted != model.name:
        model.name = wanted
        model.options = ConfigDict()  # they are of the student's network
    return model.lock()
