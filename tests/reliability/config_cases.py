"""Configs with one wrong field or argument, drawn at random."""

import dataclasses
import pathlib
import random
from typing import Any

from introspect_jax import methods
from introspect_jax.config import default_config, fields

ROOT = pathlib.Path(__file__).resolve().parents[2]

ARGUMENTS: dict[str, tuple[str | None, ...]] = {
    "cifar10": (None, "quick", "little", "fast")
}
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
# Group of options -> what selects it.
CHOSEN = {
    **{f"method.{name}": f"method.name={name}" for name in methods.modules()},
    **{
        f"model.{file}": f"model.name={name}"
        for file, name in (
            ("resnet", "resnet18"),
            ("small_resnet", "resnet8"),
            ("wide_resnet", "wrn10_1"),
            ("airbench", "airbench"),
            ("vgg", "vgg11"),
            ("vit", "vit_ti4"),
        )
    },
}


def _outside() -> dict[str, tuple[tuple[str, ...], str]]:
    """Mistakes that any part from outside may have."""
    taken = {"optimizer": ("optimizer.weight_decay=0.0",)}
    found = {}
    for part, name in (
        ("model", "resnet8"),
        ("data", "digits"),
        ("method", "kd"),
        ("optimizer", "adamw"),
    ):
        path = f"{part}.name=outside"
        text, more = f"{path}:returns_text", taken.get(part, ())
        cases = {
            "an option of the package": (
                (f"{part}.name={name}", f"{part}.options.x=1"),
                f"{part}.options.x: options are for import paths",
            ),
            "a group": ((text, f"{part}.options=1"), f"config.{part}.options"),
            "an unknown group": (
                (f"{part}.nonsense.x=1",),
                f"unknown field config.{part}.nonsense.x",
            ),
            "no module": ((f"{part}.name=nowhere:make",), "no module 'nowhere'"),
            "no module inside": ((f"{path}.more:make",), "no module 'outside.more'"),
            "no object": ((f"{path}:nothing",), "nothing of that name"),
            "no function": ((f"{path}:NOT_CALLABLE",), "not callable"),
            "an unknown option": ((text, f"{part}.options.x=1", *more), "options: "),
            "a group of options": ((text, f"{part}.options.a.b=1", *more), "'a'"),
            "an option that is missing": ((f"{path}:needs_size", *more), "'size'"),
            "another result": ((text, *more), "returned str"),
        }
        found |= {f"{part}: {what}": case for what, case in cases.items()}
    return found


def _data(name: str, said: str) -> tuple[tuple[str, ...], str]:
    fields = ("batch_size=32", "method.name=standard", "total_steps=2")
    return (f"data.name=outside:{name}", *fields), said


# What is wrong -> fields beside those of configs/digits.py, and what the line must say.
LISTED = _outside() | {
    "an unknown stem": (
        ("model.name=resnet18", "model.resnet.stem=round"),
        "model.resnet.stem",
    ),
    "a field of before": (("model.stem=small",), "unknown field config.model.stem"),
    "a teacher from nowhere": (
        ("method.name=kd", "method.teacher_model=nowhere:make"),
        "no module 'nowhere'",
    ),
    "model: another number of outputs": (
        ("model.name=outside:another_head",),
        "logits of shape",
    ),
    "model: no train": (("model.name=outside:without_train",), "(images, train)"),
    "model: linen with rngs": (("model.name=outside:linen_with_rngs",), "NNX module"),
    "method: an entry that is not named": (
        ("method.name=outside:carries_unknown",),
        "['memory']",
    ),
    "data: pixels above 255": _data("large_pixels", "must be uint8"),
    "data: pixels of text": _data("text_pixels", "must be uint8"),
    "data: pixels that are no numbers": _data("nan_pixels", "not finite"),
    "data: images of two axes": _data("flat_images", "[n, height, width, channels]"),
    "data: another type than is said": _data("another_dtype", "gave float64"),
    "data: int64": _data("odd_dtype", "uint8 or float32, got int64"),
    "data: a type for each split": _data("two_dtypes", "of one type"),
    "data: another shape than is said": _data("another_shape", "(8, 8, 1)"),
    "data: one class": _data("one_class", "at least 2"),
    "data: no images": _data("no_images", "is empty"),
    "data: labels of floats": _data("float_labels", "labels must be integers"),
    "data: columns of labels": _data("columns_of_labels", "labels must be integers"),
    "data: too few labels": _data("too_few_labels", "labels must be integers"),
    "data: no labels": _data("no_labels", "labels must lie in 0..1"),
    "data: a reader of float labels": _data("read_float_labels", "labels"),
    "data: a reader of columns": _data("read_columns", "labels"),
    "data: a reader of too few labels": _data("read_too_few", "labels"),
    "data: a reader of text": _data("read_text", "images"),
}
# What is seen when all of a split is read: of the training split before the first step,
# of the test split after the last.
LISTED_LATE = {
    "data: one wrong label": _data("one_wrong_label", "labels must lie in 0..1"),
    "data: wrong labels of the test": _data("wrong_test_labels", "labels must lie in"),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """One mistake.

    Attributes:
      config: name of the file in configs/.
      argument: of it, or None.
      chosen: the field that selects what has the option, as `method.name=kd`; "" for
        what the config selects.
      field: that is set; "" where the argument is the mistake.
      value: of the field.
      kind: of `KINDS`.
      on_command_line: or else in a config file.
    """

    config: str
    argument: str | None
    chosen: str
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
            # Options of a method or a network matter where it is the one in use.
            part = field.split(".")
            chosen = CHOSEN.get(".".join(part[:2]), "") if len(part) == 3 else ""
            if kind == "unknown field":
                field += draw.choice(["x", ".x"])
            case = Case(name, argument, chosen, field, value, kind, draw.random() < 0.5)
        found.setdefault(case.describe(), case)
    return list(found.values())


def flags_of(fields: tuple[str, ...]) -> list[str]:
    """The flags of an entry of `LISTED`."""
    given = [f"--config.{field}" for field in fields]
    if not any(field.startswith("model.name=") for field in fields):
        given.insert(0, "--config.model.name=tiny:build_tiny")
    return [f"--config={ROOT / 'configs' / 'digits.py'}", *given]


def command_line(case: Case, folder: pathlib.Path) -> list[str]:
    """The flags of the case; a config file of its own lies in `folder`."""
    path = str(ROOT / "configs" / f"{case.config}.py")
    chosen = [f"--config.{case.chosen}"] if case.chosen else []
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
