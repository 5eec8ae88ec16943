"""A finished run, back from its folder."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from introspect_jax.config import default_config, fields, validate
from introspect_jax.data import sources
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.experiment import Experiment, build
from introspect_jax.train.state import deployed_variables


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network and all that it came from.

    Attributes:
      experiment: rebuilt from the config; it can explain and evaluate, not train.
      variables: of the network as it is deployed.
      step: that they are of.
      state_sha256: of the state that they are from.
    """

    experiment: Experiment
    variables: Any
    step: int
    state_sha256: str


def absolute(path: str) -> epath.Path:
    """A work folder whatever the current folder will be."""
    return epath.Path(path) if "://" in path else epath.Path(path).resolve()


def load_config(path: str) -> ConfigDict:
    """The config of a work folder, with the defaults of fields that came later.

    Raises:
      UserError: not the work folder of a run, or one that this version cannot read.
    """
    stored = absolute(path) / "config.json"
    if not stored.exists():
        raise UserError(
            f"{path!r} is not the work folder of a run: it has no config.json; give "
            "the folder that launch/main.py named"
        )
    config = default_config()
    try:
        config.update(ConfigDict(json.loads(stored.read_text())))
        validate(config)
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(
            f"{str(stored)!r} cannot be used by this version: {reason}"
        ) from error
    return config.lock()


# What may differ between the data of two runs that are the same data: how they are
# read and varied, and how many of the training examples are taken. A teacher that saw
# the student's validation examples would tell it about them.
_FREE = (
    "data.data_dir",
    "data.device_megabytes",
    "data.read_threads",
    "data.augment.",
    "data.train_examples",
)


def check_same_data(config: ConfigDict, taught: ConfigDict, path: str) -> None:
    """Raises a UserError for a teacher that was trained on other data.

    Args:
      config: of the student.
      taught: of the teacher.
      path: of the teacher.
    """
    here, there = fields(config), fields(taught)
    for field in here:
        if not field.startswith("data.") or field.startswith(_FREE):
            continue
        if here[field] != there[field]:
            raise UserError(
                f"the teacher {path!r} was trained on other data: {field} is "
                f"{there[field]!r} there, {here[field]!r} here"
            )


def load_run(
    path: str,
    dataset: Dataset | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Run:
    """The newest intact checkpoint of a work folder.

    Args:
      path: the folder.
      dataset: of the config, if it is at hand.
      devices: to hold it, by default all.

    Raises:
      UserError: not the work folder of a run, or of one without a checkpoint.
    """
    config = load_config(path)
    experiment = build(config, dataset or sources.load(config.data), devices)
    checkpoints = Checkpoints(absolute(path), config.checkpoints_kept)
    restored = checkpoints.restore_newest(experiment.abstract_state())
    checkpoints.close()
    if restored is None:
        raise UserError(f"{path!r} has no checkpoint yet; let the run train further")
    state, meta = restored
    variables = deployed_variables(experiment.method, state)
    return Run(experiment, variables, int(state.step), meta["state_sha256"])
