"""The definition of a study, read from its file."""

import collections
import copy
import dataclasses
import importlib.util
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from ml_collections import ConfigDict

from introspect_jax.config import default_config, fields, is_option, lock, validate
from introspect_jax.errors import UserError, nearest, unknown
from studies.sweeps import Fields, Sweep, point

# Files that are not in the current folder are looked for in the checkout, so that
# studies run from any folder.
ROOT = pathlib.Path(__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True)
class Study:
    """Every arm in every setting with every seed.

    Seed s gives the same first values, order and augmentation to every arm, so that
    arms are compared seed by seed.

    Attributes:
      question: One sentence, the title of the page.
      config: The config file that all runs start from, `FILE[:ARGUMENT]`.
      arms: The arms that are compared.
      seeds: Seeds of the final runs.
      baseline: Name of the arm that all others are compared with.
      fields: Config fields that are set in every run.
      settings: Settings in which the arms are compared (data, noise); by default one
        without a name.
      controls: Arms that are expected to help. A setting in which none of them is
        better than the baseline, after Holm's correction, is uninformative.
      contrasts: Pairs of arms (a, b) whose difference a - b is reported, in addition to
        the differences from the baseline.
      trials: Arm -> variants of it that are scored on the validation split. Its final
        runs use the best one. Every tuned arm has the same number of trials.
      tuning_seeds: Seeds of the trials, disjoint from `seeds`.
      data: Description of the data on the page.
      about: Text for the page: choices and their reasons.
    """

    question: str
    config: str
    arms: Sweep
    seeds: Sequence[int]
    baseline: str
    fields: Fields = dataclasses.field(default_factory=dict)
    settings: Sweep = dataclasses.field(default_factory=lambda: point(""))
    controls: Sequence[str] = ()
    contrasts: Sequence[tuple[str, str]] = ()
    trials: Mapping[str, Sweep] = dataclasses.field(default_factory=dict)
    tuning_seeds: Sequence[int] = ()
    data: str = ""
    about: str = ""

    def __post_init__(self):
        """Raises UserError if the parts of the study are inconsistent."""
        names = [p.name for p in self.arms]
        for kind, mentioned in (
            ("baseline", [self.baseline]),
            ("controls", self.controls),
            ("contrasts", [name for pair in self.contrasts for name in pair]),
            ("trials", self.trials),
        ):
            for name in mentioned:
                if name not in names:
                    raise UserError(unknown(f"arm in {kind} of the study", name, names))
        for kind, values in (
            ("arms", names),
            ("settings", [p.name for p in self.settings]),
            ("seeds", [*self.seeds, *self.tuning_seeds]),
        ):
            if not values:
                raise UserError(f"the study has no {kind}")
            twice = [v for v, n in collections.Counter(values).items() if n > 1]
            if twice:
                raise UserError(
                    f"{kind} of the study must differ, got {twice[0]!r} twice"
                    + (" (seeds of the trials are not used again)" * (kind == "seeds"))
                )
        if self.baseline in self.controls:
            raise UserError(
                f"the baseline {self.baseline!r} cannot be a control of the study: "
                "controls are compared with it"
            )
        counts = {name: len(points) for name, points in self.trials.items()}
        if len(set(counts.values())) > 1:
            raise UserError(
                f"every arm that is tuned gets the same number of trials, got {counts}"
            )
        if bool(self.trials) != bool(self.tuning_seeds):
            raise UserError("trials and tuning_seeds of the study go together")


def load_study(path: str) -> tuple[str, Study]:
    """The study of `FILE[:ARGUMENT]`, and its name.

    Raises:
      UserError: The file does not exist or does not define a study.
    """
    study = _call(path, "get_study")
    if not isinstance(study, Study):
        raise UserError(
            f"get_study of {path!r} must return a studies.Study, got "
            f"{type(study).__name__}"
        )
    return file_name(path), study


def base_config(study: Study) -> tuple[str, ConfigDict]:
    """Name and unchanged config of the config file that all runs start from.

    Raises:
      UserError: The file does not exist or cannot be read.
    """
    return file_name(study.config), _call(study.config, "get_config")


def with_fields(config: ConfigDict, changes: Fields) -> ConfigDict:
    """A copy of the config with some fields set, validated and locked.

    Raises:
      UserError: A field is unknown, or a value is invalid.
    """
    changed = copy.deepcopy(config)  # with the types of its fields
    known = fields(default_config())
    for name, value in changes.items():
        if name not in known and not is_option(name):
            raise UserError(
                f"the study sets an unknown field {name!r}{nearest(name, known)}"
            )
        try:
            changed.update_from_flattened_dict({name: value})
        except (TypeError, ValueError) as error:
            raise UserError(f"the study sets {name} to {value!r}: {error}") from error
    validate(changed)
    return lock(changed)


def file_name(path: str) -> str:
    """`configs/cifar10.py:quick` as `cifar10-quick`."""
    file, _, argument = path.partition(":")
    name = os.path.splitext(os.path.basename(file))[0]
    return name + ("-" + re.sub(r"[^\w.]+", "-", argument) if argument else "")


def _call(path: str, function: str) -> Any:
    """Result of a function of the file, called with the argument of the path."""
    name, _, argument = path.partition(":")
    file = next((f for f in (name, str(ROOT / name)) if os.path.isfile(f)), None)
    if file is None:
        names = _files_beside(name)
        raise UserError(
            f"no file {name!r}{nearest(name, names)}; there are: "
            f"{', '.join(names) or 'none in that folder'}"
        )
    try:
        module = _module(file)
        return getattr(module, function)(argument or None)
    except UserError:
        raise
    except Exception as error:  # a file is a program and may raise anything
        line = (str(error).splitlines() or [""])[0]
        raise UserError(
            f"{file!r} cannot be read: {type(error).__name__}: {line}"
        ) from error


def _files_beside(file: str) -> list[str]:
    """Python files in the same folder, here or in the checkout, to suggest."""
    folder = os.path.dirname(file)
    places = [folder, str(ROOT / folder)] if folder else ["."]
    names = {n for place in places if os.path.isdir(place) for n in os.listdir(place)}
    shown = [n for n in sorted(names) if n.endswith(".py") and not n.startswith("_")]
    return [os.path.join(folder, n) for n in shown]


def _module(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("introspect_jax_study_file", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
