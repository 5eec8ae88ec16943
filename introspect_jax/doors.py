"""Finds networks, data sets, methods and optimizers by name or by import path.

Each of these parts has a folder, its door. Every module of the folder that defines
`SUMMARY` is an entry, named by its file. An entry that serves several names defines
`PATTERN`, a regular expression that these names match, and `NAMES`, the names that are
listed. Code outside of the package is named by its import path,
`package.module:object`; modules in the current folder can be imported.
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
    """The entries of one folder."""

    def __init__(self, package: str, field: str, also: dict[str, str] | None = None):
        """The folder is scanned when its entries are first needed.

        Args:
          package: Import name of the folder.
          field: Field of the config whose `name` selects an entry, such as `"model"`.
          also: What users may look for here but find elsewhere: name -> where, for
            `describe`.
        """
        self.field = field
        self._package = package
        self._also = also or {}

    @functools.cached_property
    def entries(self) -> dict[str, ModuleType]:
        """Maps the file name of each entry to its module, in alphabetical order."""
        package = importlib.import_module(self._package)
        modules = {
            found.name: importlib.import_module(f"{self._package}.{found.name}")
            for found in pkgutil.iter_modules(package.__path__)
            if not found.ispkg
        }
        return {name: m for name, m in modules.items() if hasattr(m, "SUMMARY")}

    def names(self) -> list[str]:
        """The names of all entries, as listed to users."""
        return [
            listed
            for name, module in self.entries.items()
            for listed in getattr(module, "NAMES", (name,))
        ]

    def find(self, name: str) -> tuple[str, ModuleType] | None:
        """Returns file name and module of the entry for a name, or None."""
        plain = self.entries.get(name)
        if plain and not hasattr(plain, "PATTERN"):
            return name, plain
        for file, module in self.entries.items():
            if re.fullmatch(getattr(module, "PATTERN", "(?!)"), name):
                return file, module
        return None

    def get(self, name: str) -> tuple[str, ModuleType]:
        """Like `find`, for a name that must exist.

        Raises:
          UserError: There is no entry for this name.
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
        """Calls the factory at an import path with the options of the config.

        Args:
          config: Config of the part, with `name` and `options`.
          *arguments: Arguments that every factory of this door takes.
          wanted: Type of the result.
          **handed: Arguments passed only to factories that have such parameters.

        Raises:
          UserError: The path does not exist, the factory does not take the options, or
            the result has another type.
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
        """Raises a UserError if `options` are set for a built-in part."""
        if config.options and not is_import_path(config.name):
            first = next(iter(config.options))
            raise UserError(
                f"{self.field}.options.{first}: options are for import paths "
                f"(package.module:object), and {self.field}.name is {config.name!r}; "
                "the fields of the config set what it has"
            )

    def describe(self) -> str:
        """Returns one line per entry: its names, summary, cost and source."""
        lines = []
        for name, module in self.entries.items():
            cost, source = getattr(module, "COST", ""), getattr(module, "SOURCE", "")
            listed = ", ".join(getattr(module, "NAMES", (name,)))
            known = (module.SUMMARY, cost, source)
            lines.append((listed, "; ".join(filter(None, known))))
        lines += self._also.items()
        width = min(max(len(names) for names, _ in lines), 24)
        shown = [f"{names:{width}}  {text}" for names, text in lines]
        path = f"--config.{self.field}.name=package.module:object"
        return "\n".join([*shown, f"Your own, by its import path: {path}"])


def is_import_path(name: str) -> bool:
    """Whether a name has the form `package.module:object`."""
    return _IMPORT_PATH.fullmatch(name) is not None


def load_object(path: str, field: str) -> Callable[..., Any]:
    """Imports a module and returns its object.

    Args:
      path: `package.module:object`.
      field: Field of the config for error messages, such as `"model"`.

    Raises:
      UserError: The module or the object does not exist, or the object is not callable.
        Errors raised by the code of the module are not caught.
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
