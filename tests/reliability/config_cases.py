"""Configs with one wrong field or argument, drawn at random."""

import dataclasses
import pathlib
import random
from typing import Any

from introspect_jax.config import default_config, fields

ROOT = pathlib.Path(__file__).resolve().parents[2]

ARGUMENTS: dict[str, tuple[str | None, ...]] = {"cifar10": (None, "quick", "little")}
KINDS = (
    "wrong type",
    "negative",
    "zero",
    "huge",
    "tiny",
    "not a number",
    "infinite",
    "empty",
    "unknown name",
    "wrong length",
    "unknown field",
    "float for int",
    "string",
    "none",
)
# Those that pass the flag's own parser, and reach what comes after it.
SUITED: dict[type, tuple[str, ...]] = {
    bool: ("wrong type", "string", "none"),
    int: ("negative", "zero", "huge", "none"),
    float: ("negative", "zero", "huge", "tiny", "not a number", "infinite", "none"),
    str: ("empty", "unknown name", "huge", "none"),
    tuple: ("wrong length", "negative", "zero", "huge", "tiny", "not a number"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
      config: name of the file in configs/.
      argument: of it, or None.
      method: which is selected; "" for that of the config.
      field: that is set; "" where the argument is the mistake.
      value: of the field.
      kind: of `KINDS`.
      on_command_line: or else in a config file.
    """

    config: str
    argument: str | None
    method: str
    field: str
    value: Any
    kind: str
    on_command_line: bool

    def describe(self) -> str:
        """In a few words."""
        name = self.config + ("" if self.argument is None else f":{self.argument[:12]}")
        where = "" if self.on_command_line else " (in a file)"
        value = repr(self.value)
        value = value if len(value) <= 40 else f"{value[:30]}...{len(value)} characters"
        return f"{name} {self.field or 'argument'}={value}{where}"


def corrupted(kind: str, default: Any, draw: random.Random) -> Any:
    """A value that is wrong in this way for a field of this default, if it can be."""
    whole = isinstance(default, int) and not isinstance(default, bool)
    options = {
        "wrong type": [3, 0.5, "text", True, (1,), {"a": 1}, b"bytes"],
        "negative": [-1, -(10**12)] if whole else [-1.0, -1e-9],
        "zero": [0] if whole else [0.0],
        "huge": [10**12, 2**31 - 1, 10**30] if whole else [1e300, 1e38, 10**400],
        "tiny": [1e-300, 1e-45],
        "not a number": [float("nan")],
        "infinite": [float("inf"), -float("inf")],
        "empty": ["", ()],
        "unknown name": [
            "nonsense",
            "None",
            "../..",
            "a b",
            "\u00e9\u4e2d",
            "x" * 5000,
        ],
        "wrong length": [(0.5, 0.5), (0.5,) * 7, ()],
        "unknown field": [1],
        "float for int": [1.5, 1e10],
        "string": ["three", "1", "nan"],
        "none": [None],
    }[kind]
    if kind == "huge" and isinstance(default, str):
        options = ["9" * 5000, "wrn10_99999999", "wrn99999994_1", "probes:99999999999"]
    value = draw.choice(options)
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, tuple) and numeric and kind != "wrong type":
        return (value,) * len(default)
    return value


def draw_cases(count: int, seed: int, only: str | None = None) -> list[Case]:
    """`count` different cases, the same for the same seed.

    Args:
      count: how many.
      seed: of the draws.
      only: the one config to corrupt; by default all.
    """
    draw = random.Random(seed)
    known = fields(default_config())
    names = [only] if only else sorted(p.stem for p in (ROOT / "configs").glob("*.py"))
    bases = [(n, a) for n in names for a in ARGUMENTS.get(n, (None,))]
    found: dict[str, Case] = {}
    while len(found) < count:
        name, argument = draw.choice(bases)
        if draw.random() < 0.05:
            wrong = draw.choice(
                ["", "nonsense", "quick:quick", " ", "None", "q" * 5000]
            )
            case = Case(name, wrong, "", "", wrong, "argument", True)
        else:
            field = draw.choice(sorted(known))
            suited = draw.random() < 0.6
            kind = draw.choice(SUITED[type(known[field])] if suited else KINDS)
            value = corrupted(kind, known[field], draw)
            # The options of a method matter where it is the one that is used.
            part = field.split(".")
            method = part[1] if part[0] == "method" and len(part) == 3 else ""
            if kind == "unknown field":
                field += draw.choice(["x", ".x"])
            case = Case(name, argument, method, field, value, kind, draw.random() < 0.5)
        found.setdefault(case.describe(), case)
    return list(found.values())


def command_line(case: Case, folder: pathlib.Path) -> list[str]:
    """The flags of the case; a config file of its own lies in `folder`."""
    path = str(ROOT / "configs" / f"{case.config}.py")
    chosen = [f"--config.method.name={case.method}"] if case.method else []
    if case.on_command_line:
        if case.argument is not None:
            path += f":{case.argument}"
        setting = [f"--config.{case.field}={case.value}"] if case.field else []
        return [f"--config={path}", *chosen, *setting]
    value = repr(case.value)
    if isinstance(case.value, float | tuple):
        value = f"eval({value!r}, {{'nan': float('nan'), 'inf': float('inf')}})"
    file = folder / f"{case.config}.py"
    file.write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('base', {path!r})\n"
        "base = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(base)\n"
        "def get_config(arg=None):\n"
        f"    config = base.get_config({case.argument!r})\n"
        f"    config.{case.field} = {value}\n"
        "    return config\n"
    )
    return [f"--config={file}", *chosen]
