"""A finished run, back from its folder."""

import dataclasses
import json
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from introspect_jax.config import default_config, validate
from introspect_jax.data import sources
from introspect_jax.errors import UserError
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.experiment import Experiment, build
from introspect_jax.train.state import deployed_variables


@dataclasses.dataclass(frozen=True)
class Run:
    """A trained network and all that it came from.

    Attributes:
      experiment: rebuilt from the config.
      variables: of the network as it is deployed.
      step: that they are of.
    """

    experiment: Experiment
    variables: Any
    step: int


def load_run(path: str) -> Run:
    """The newest intact checkpoint of a work folder.

    Raises:
      UserError: not the work folder of a run, or of one without a checkpoint.
    """
    workdir = epath.Path(path) if "://" in path else epath.Path(path).resolve()
    stored = workdir / "config.json"
    if not stored.exists():
        raise UserError(
            f"{path!r} is not the work folder of a run: it has no config.json; train "
            "first, or give --workdir the folder that launch/main.py named"
        )
    config = default_config()
    try:
        config.update(ConfigDict(json.loads(stored.read_text())))
        validate(config)
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(
            f"{str(stored)!r} cannot be used by this version: {reason}"
        ) from error
    experiment = build(config, sources.load(config.data))
    checkpoints = Checkpoints(workdir, config.checkpoints_kept)
    restored = checkpoints.restore_newest(experiment.abstract_state())
    checkpoints.close()
    if restored is None:
        raise UserError(f"{path!r} has no checkpoint yet; let the run train further")
    state, _ = restored
    variables = deployed_variables(experiment.method, state)
    return Run(experiment, variables, int(state.step))
