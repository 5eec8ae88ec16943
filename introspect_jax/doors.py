"""Doors: networks, data sets, methods and optimizers, by name or by import path.

A name is found in the door's folder: every module there with a `SUMMARY` is an entry,
whose name is that of its file. An entry may serve a family of names: then it has a
`PATTERN` that a name must match, and `NAMES` as they are listed. Whatever belongs to
somebody else is named by its import path, `package.module:object`; the current folder
is importable.
"""

import functools
import importlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from introspect_jax.errors import UserError, nearest, unknown
from introspect_jax.options import call, takes

# The object is an identifier, which a version is not: `mnist:3.0.1` is a TFDS name.
_IMPORT_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


class Door:
    """The entries of one folder, found by scanning it."""

    def __init__(self, package: str, field: str):
        """Scans nothing yet.

        Args:
          package: the folder's import name.
          field: of the config, such as `"model"`, whose `name` chooses.
        """
        self.field = field
        self._package = package

    @functools.cached_property
    def entries(self) -> dict[str, ModuleType]:
        """File name -> module of every entry, in alphabetical order."""
        package = importlib.import_module(self._package)
        modules = {
            found.name: importlib.import_module(f"{self._package}.{found.name}")
            for found in pkgutil.iter_modules(package.__path__)
            if not found.ispkg
        }
        return {name: m for name, m in modules.items() if hasattr(m, "SUMMARY")}

    def names(self) -> list[str]:
        """What `name` may be, as it is listed to users."""
        return [
            listed
            for name, module in self.entries.items()
            for listed in getattr(module, "NAMES", (name,))
        ]

    def find(self, name: str) -> tuple[str, ModuleType] | None:
        """File name and module of the entry that serves this name, or None."""
        plain = self.entries.get(name)
        if plain and not hasattr(plain, "PATTERN"):
            return name, plain
        for file, module in self.entries.items():
            if re.fullmatch(getattr(module, "PATTERN", "(?!)"), name):
                return file, module
        return None

    def get(self, name: str) -> tuple[str, ModuleType]:
        """As `find`.

        Raises:
          UserError: no entry serves this name.
        """
        found = self.find(name)
        if found is None:
            path = f"--config.{self.field}.name=package.module:object"
            raise UserError(
                f"{unknown(self.field, name, self.names())}; or an import path, {path}"
            )
        return found

    def make_outside(
        self, config: Any, *arguments: Any, wanted: type, **handed: Any
    ) -> Any:
        """What the factory of an import path makes, with the options of the config.

        Args:
          config: Of the part, with `name` and `options`.
          *arguments: What every factory of this door takes.
          wanted: What it must return.
          **handed: Further arguments, for factories that take them.

        Raises:
          UserError: Nothing at the path, options that the factory does not take, or
            another result.
        """
        factory = load_object(config.name, self.field)
        made = call(
            factory,
            *arguments,
            path=config.name,
            field=self.field,
            options=config.options,
            **{name: v for name, v in handed.items() if takes(factory, name)},
        )
        if not isinstance(made, wanted):
            raise UserError(
                f"{self.field}.name={config.name!r} returned {type(made).__name__}, "
                f"not {wanted.__module__}.{wanted.__name__}"
            )
        return made

    def check_options(self, config: Any) -> None:
        """Raises a UserError for `options` that nothing takes: they are for parts from
        outside."""
        if config.options and not is_import_path(config.name):
            first = next(iter(config.options))
            raise UserError(
                f"{self.field}.options.{first}: options are for import paths "
                f"(package.module:object), and {self.field}.name is {config.name!r}; "
                "the fields of the config set what it has"
            )

    def describe(self) -> str:
        """A line for every entry: its names, what it is, and where it is from."""
        lines = []
        for name, module in self.entries.items():
            source = getattr(module, "SOURCE", "")
            listed = ", ".join(getattr(module, "NAMES", (name,)))
            lines.append((listed, "; ".join(filter(None, (module.SUMMARY, source)))))
        width = min(max(len(names) for names, _ in lines), 24)
        shown = [f"{names:{width}}  {text}" for names, text in lines]
        path = f"--config.{self.field}.name=package.module:object"
        return "\n".join([*shown, f"Your own, by its import path: {path}"])


def is_import_path(name: str) -> bool:
    """Whether a name is `package.module:object`."""
    return _IMPORT_PATH.fullmatch(name) is not None


def load_object(path: str, field: str) -> Callable[..., Any]:
    """The object of an import path, which runs its module.

    Args:
      path: `package.module:object`.
      field: of the config, such as `"model"`, for messages.

    Raises:
      UserError: no such module or object, or one that cannot be called. Errors of the
        module's own code are left as they are.
    """
    name, _, attribute = path.partition(":")
    if name.partition(".")[0] in sys.stdlib_module_names:
        # A stored config must not be able to call `timeit:timeit` and the like.
        raise UserError(
            f"{field}.name={path!r}: {name!r} is a module of Python itself, which has "
            f"no {field}; give one of yours, or of an installed package"
        )
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that it imports
        raise UserError(
            f"{field}.name={path!r}: no module {error.name!r} in the current folder "
            f"{os.getcwd()!r} or among installed packages; run from the folder that "
            "has it, or set PYTHONPATH"
        ) from error
    found = getattr(module, attribute, None)
    if not callable(found):
        callables = [n for n in dir(module) if callable(getattr(module, n))]
        what = "nothing of that name" if found is None else "not callable"
        raise UserError(
            f"{field}.name={path!r}: {what} in the module {name!r}"
            f"{nearest(attribute, callables)}"
        )
    return found
