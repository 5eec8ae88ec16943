"""Options of a part of the trainer: their ranges, and those of parts from outside."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown


def check_range(
    prefix: str, config: ConfigDict, **limits: tuple[float, float, str]
) -> None:
    """Raises a UserError for an option that lies outside of its interval.

    Args:
      prefix: of the field in the message, such as `"method.kd."`.
      config: with the options.
      **limits: option -> `(low, high, brackets)`, as in `(0, 1, "[)")`.
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
    """Raises a UserError for an option below its least value."""
    for name, low in least.items():
        if not config[name] >= low:
            raise UserError(
                f"{prefix}{name} must be at least {low}, got {config[name]}"
            )


def check_choice(prefix: str, config: ConfigDict, **choices: Iterable[str]) -> None:
    """Raises a UserError for an option that is none of its choices."""
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
    """Calls a factory from outside with the options of the config.

    Args:
      factory: what the import path names.
      *arguments: what every factory of its kind takes.
      path: the import path, for messages.
      field: of the config, such as `"model"`.
      options: `config.<field>.options`, keyword arguments.
      **handed: further keyword arguments; options of the same name win.

    Raises:
      UserError: the factory takes no such option, or needs one that is not set.
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
    """The signature, or None where Python cannot tell (some builtins)."""
    try:
        if inspect.isclass(factory):
            # Of the constructor: metaclasses hide it (Flax NNX).
            found = inspect.signature(factory.__init__)  # type: ignore[misc]
            return found.replace(parameters=list(found.parameters.values())[1:])
        return inspect.signature(factory)
    except (TypeError, ValueError):
        return None


def _tuples(value: Any) -> Any:
    """JSON has no tuples, and gives lists back for them."""
    if isinstance(value, list | tuple):
        return tuple(_tuples(entry) for entry in value)
    return value
