"""Loads a trained network from the work folder of its run."""

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from introspect_jax import data, methods, optimizers
from introspect_jax.binding import for_pictures
from introspect_jax.config import (
    default_config,
    fields,
    is_option,
    lock,
    validate,
    with_new_values,
)
from introspect_jax.data.identity import Identity, differing_classes
from introspect_jax.data.preprocess import make_preprocess
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.train.devices import make_mesh, sharing
from introspect_jax.train.files import read_json
from introspect_jax.train.restoring import Restorer
from introspect_jax.train.state import deployed_variables
from introspect_jax.train.trainer import abstract_state, make_context
from introspect_jax.trained import Trained


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run(Trained):
    """The trained network of a run.

    Attributes, beside those of `Trained`:
      config: Of the run.
      step: That the variables are of.
      state_sha256: Of the state that they are from.
      mesh: The devices that hold them.
      load_dataset: Reads the data that it was trained on.
    """

    config: ConfigDict
    step: int
    state_sha256: str
    mesh: Mesh
    load_dataset: Callable[[], Dataset]

    @functools.cached_property
    def dataset(self) -> Dataset:
        """The data that the network was trained on, read at first use."""
        return self.load_dataset()


def load_config(path: str) -> ConfigDict:
    """Returns the config of a work folder; fields that came later have their defaults.

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
        written = ConfigDict(json.loads(stored.read_text()))
        unknown = [n for n in fields(written) if not is_option(n)]
        unknown = sorted(set(unknown) - fields(config).keys())
        if unknown:
            more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
            raise ValueError(
                f"it has the fields of another one, {', '.join(unknown[:3])}{more}; "
                "use the version that trained the run (CHANGELOG.md)"
            )
        config.update(with_new_values(written))
        validate(config)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(
            f"{str(stored)!r} cannot be used by this version: {reason}"
        ) from error
    return lock(config)


def read_facts(folder: epath.Path) -> dict[str, Any] | None:
    """Returns the description of the data in a work folder (`Dataset.describe`), or
    None for a run of a version that did not write it.

    Raises:
      UserError: It is damaged.
    """
    stored = folder / "data.json"
    if not stored.exists():
        return None
    facts = read_json(stored, "class_names", "image_shape", "dtype", "examples")
    names, shape = facts["class_names"], facts["image_shape"]
    examples = facts["examples"]
    if not (
        isinstance(names, list)
        and all(isinstance(name, str) for name in names)
        and isinstance(shape, list)
        and len(shape) == 3
        and isinstance(examples, dict)
        and all(type(n) is int and n > 0 for n in (*shape, examples.get("train")))
    ):
        raise UserError(
            f"{str(stored)!r} is damaged (it describes no data); restore or remove it"
        )
    return facts


def recorded_identity(facts: dict[str, Any]) -> Identity | None:
    """Returns the identity of the data, or None for a run of a version that did not
    record it."""
    if "parts" not in facts:
        return None
    try:
        return Identity.from_json(facts)
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"data.json is damaged (its parts are none: {error}); restore or remove it"
        ) from error


def differing_facts(facts: dict[str, Any], dataset: Dataset, *names: str) -> str:
    """Describes the first of the named facts that differs for these data; empty if
    none does."""
    now = dataset.describe()
    for name in names:
        if facts[name] != now[name]:
            return f"{name} is {now[name]}, not {facts[name]}"
    return ""


def check_data(folder: epath.Path, dataset: Dataset) -> None:
    """Compares the data with those that the run recorded.

    Raises:
      UserError: They differ; names what does.
    """
    facts = read_facts(folder)
    if facts is None:
        return
    before = recorded_identity(facts)
    if before is not None:
        difference = before.difference(dataset.identity)
    else:
        difference = differing_classes(facts["class_names"], dataset.class_names)
    difference = difference or differing_facts(
        facts, dataset, "image_shape", "dtype", "examples"
    )
    if difference:
        raise UserError(
            f"the data are not those that the run in {str(folder)!r} was trained on: "
            f"{difference}; nothing was changed: bring the data back, or use another "
            "work folder"
        )


def load(
    path: str,
    dataset: Dataset | None = None,
    devices: Any = None,
    *,
    data_dir: str | None = None,
) -> Run:
    """Loads the newest intact checkpoint of a work folder and changes nothing in it.

    The data are not read: the folder knows their classes and shapes. They are compared
    with those of the run when `Run.dataset` is asked for.

    Args:
      path: The folder, `~` for the home folder included, or `gs://`.
      dataset: What the run was trained on, if it is at hand.
      devices: To hold the network, by default as many as can share batches of the run.
      data_dir: Where its data lie now, if not where they were.

    Raises:
      UserError: Not the work folder of a run, or of one without a checkpoint.
    """
    config = load_config(path)
    if data_dir is not None:
        config.data.data_dir = data_dir
    folder = absolute(path)

    def load_dataset() -> Dataset:
        return dataset or _load_data(config, folder)

    if dataset is not None:
        check_data(folder, dataset)
    facts = read_facts(folder) or load_dataset().describe()
    names, image_shape = tuple(facts["class_names"]), tuple(facts["image_shape"])
    preprocess = make_preprocess(config.data, image_shape)
    context = make_context(
        config,
        len(names),
        (*preprocess.size, image_shape[2]),
        facts["examples"]["train"],
    )
    method = methods.make(config.method, context)
    schedule = optimizers.make_schedule(config.optimizer, config.total_steps)
    optimizer = optimizers.make_optimizer(config.optimizer, schedule)
    if devices is None:
        devices = sharing(config.batch_size, config.eval_batch_size)
    mesh = make_mesh({}, devices)
    with contextlib.closing(Restorer(folder)) as restorer:
        restored = restorer.restore_newest(
            abstract_state(config, method, optimizer, mesh)
        )
    if restored is None:
        raise UserError(f"{path!r} has no checkpoint yet; let the run train further")
    state, meta = restored
    return Run(
        model=method.model,
        variables=deployed_variables(method, state),
        preprocess=preprocess,
        class_names=names,
        image_shape=image_shape,
        dtype=facts["dtype"],
        explain=for_pictures(config),
        config=config,
        step=int(state.step),
        state_sha256=meta["state_sha256"],
        mesh=mesh,
        load_dataset=load_dataset,
    )


def _load_data(config: ConfigDict, folder: epath.Path) -> Dataset:
    """Loads the data of a run and compares them with its record."""
    try:
        dataset = data.load(config.data)
    except UserError as error:
        raise UserError(
            f"the data of the run in {str(folder)!r} cannot be read: {error}; if they "
            "were moved, say where they are with --data_dir (load(..., data_dir=...))"
        ) from error
    check_data(folder, dataset)
    return dataset
