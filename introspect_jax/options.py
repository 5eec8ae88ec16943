"""Checks the options of built-in parts, and passes options to other code."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown


def check_range(
    prefix: str, config: ConfigDict, **limits: tuple[float, float, str]
) -> None:
    """Raises a UserError if an option lies outside of its interval.

    Args:
      prefix: Prefix of the field names in error messages, such as `"method.kd."`.
      config: Config with the options.
      **limits: Interval of each option, `(low, high, brackets)`: `(0, 1, "[)")`.
    """
    for name, (low, high, brackets) in limits.items():
        value = np.float32(config[name])  # as formulas take it: 1e-300 is 0
        above = value >= low if brackets[0] == "[" else value > low
        below = value <= high if brackets[1] == "]" else value < high
        if not (above and below):
            raise UserError(
                f"{prefix}{name} must lie in {brackets[0]}{low:g}, "
                f"{high:g}{brackets[1]}, got {config[name]}"
            )


def check_least(prefix: str, config: ConfigDict, **least: float) -> None:
    """Raises a UserError if an option is below its minimum."""
    for name, low in least.items():
        if not config[name] >= low:
            raise UserError(
                f"{prefix}{name} must be at least {low}, got {config[name]}"
            )


def check_choice(prefix: str, config: ConfigDict, **choices: Iterable[str]) -> None:
    """Raises a UserError if an option is not one of its choices."""
    for name, allowed in choices.items():
        if config[name] not in allowed:
            raise UserError(unknown(f"{prefix}{name}", config[name], allowed))


def takes(factory: Callable[..., Any], name: str) -> bool:
    """Whether the factory has a parameter of that name."""
    signature = _signature(factory)
    return signature is not None and name in signature.parameters


def call(
    factory: Callable[..., Any],
    *arguments: Any,
    path: str,
    field: str,
    options: Mapping[str, Any],
    **handed: Any,
) -> Any:
    """Calls a factory with the options of the config as keyword arguments.

    Args:
      factory: The object at the import path.
      *arguments: Positional arguments.
      path: Import path, for error messages.
      field: Field of the config, such as `"model"`.
      options: Keyword arguments from `config.<field>.options`.
      **handed: Further keyword arguments; options of the same name replace them.

    Raises:
      UserError: The factory does not take an option, or requires one that is not set.
    """
    keywords = {**handed, **{name: _tuples(value) for name, value in options.items()}}
    signature = _signature(factory)
    if signature is not None:
        try:
            signature.bind(*arguments, **keywords)
        except TypeError as error:
            own = list(signature.parameters.values())[len(arguments) :]
            # Flax adds the last two to its modules.
            known = [str(p) for p in own if p.name not in (*handed, "parent", "name")]
            raise UserError(
                f"{field}.name={path!r} with {field}.options={dict(options)}: {error}; "
                f"its options: {', '.join(known) or 'none'}"
            ) from error
    return factory(*arguments, **keywords)


def _signature(factory: Callable[..., Any]) -> inspect.Signature | None:
    """Returns the signature, or None if Python does not know it (some builtins)."""
    try:
        if inspect.isclass(factory):
            # Of the constructor: metaclasses hide it (Flax NNX).
            found = inspect.signature(factory.__init__)  # type: ignore[misc]
            return found.replace(parameters=list(found.parameters.values())[1:])
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return None


def _tuples(value: Any) -> Any:
    """Converts lists to tuples, which JSON stores as lists."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(entry) for entry in value)
    return value
