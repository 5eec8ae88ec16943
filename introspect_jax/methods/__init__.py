"""The training methods, one file each.

A file holds `SUMMARY` (one line), `SOURCE`, `default_config()` and
`make(config, context) -> Method`; its name is the method's name. With `TEACHER` it
learns from a teacher: `"any network"`, or one of the `"same network"` as its own.
Adding one is adding its file: this registry scans the folder.
"""

import functools
import importlib
import pkgutil
from types import ModuleType

from introspect_jax.errors import UserError, unknown
from introspect_jax.methods.base import Context, Method
from introspect_jax.methods.teaching import Teacher

__all__ = ["Context", "Method", "Teacher", "make", "modules"]
_SHARED = ("average", "base", "introspective_controls", "teaching")


@functools.cache
def modules() -> dict[str, ModuleType]:
    """Name -> module of every method, in alphabetical order."""
    return {
        found.name: importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
        if found.name not in _SHARED
    }


def make(config, context: Context) -> Method:
    """The method `config.method.name`, from its sub-config of the same name.

    Raises:
      UserError: no such method, or options that are out of range.
    """
    check_name(config.name)
    return modules()[config.name].make(config[config.name], context)


def check_name(name: str) -> None:
    """Raises a UserError that lists the methods if `name` is none of them."""
    if name not in modules():
        raise UserError(unknown("method", name, modules()))


def teacher_kind(name: str) -> str | None:
    """Which teacher the method needs: `"any network"`, `"same network"` or None."""
    return getattr(modules()[name], "TEACHER", None)


def describe() -> str:
    """A line for every method: what it does, and where it is from."""
    width = max(map(len, modules()))
    return "\n".join(
        f"{name:{width}}  {module.SUMMARY}; {module.SOURCE}"
        for name, module in modules().items()
    )
