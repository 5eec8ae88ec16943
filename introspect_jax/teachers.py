"""The teacher of a run: the work folder of another run, trained first if need be."""

import json
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax import methods, models
from introspect_jax.config import default_config, fields
from introspect_jax.data.batches import padded_batches
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.methods import Teacher
from introspect_jax.models import make_logits_fn
from introspect_jax.processes import is_first
from introspect_jax.train.files import read_json, write_json
from introspect_jax.train.restore import (
    Run,
    absolute,
    check_same_data,
    load_config,
    load_run,
)
from introspect_jax.workdir import default_workdir

_AGAIN = "If it is lost, remove its summary.json and run its own command again"
# Of the teacher's summary, in that of its students.
_RECORDED = ("test", "steps", "seconds", "cost")


def find(
    name: str,
    config: ConfigDict,
    workdir: epath.Path,
    dataset: Dataset,
    *,
    train_first: Callable[[str, ConfigDict, str], Any],
) -> Teacher | None:
    """The teacher that `config.method` asks for, or None if its method has none.

    It is `method.teacher`, a finished run; or else one that is trained now, by standard
    training with `method.teacher_model` and `method.teacher_seed`, in the folder beside
    this run's that its own command would take, where all students of its config find
    it. Nothing is trained or read before the variables are asked for.

    Args:
      name: of the config.
      config: of the student.
      workdir: of the student; `teacher.json` in it says which teacher it has.
      dataset: of both.
      train_first: `run.run`, and what stops it.

    Raises:
      UserError: a teacher that is not there, not finished, of other data or classes,
        or of another kind than the method needs.
    """
    kind = methods.teacher_kind(config.method.name)
    if kind is None:
        return None
    if config.method.teacher:
        path = absolute(config.method.teacher)
        if path == workdir:
            raise UserError(
                f"method.teacher {str(path)!r} is the work folder of this run"
            )
        taught = load_config(config.method.teacher)
        _check(config, taught, path, kind, dataset)
    else:
        taught = teacher_config(config)
        folder = default_workdir(name, taught).rpartition("/")[2]
        path = workdir.parent / folder
    loaded: list[Run] = []

    def load() -> Run:
        if not loaded:
            if not (path / "summary.json").exists():
                logging.warning("the teacher is trained first, in %s", path)
                train_first(name, taught, str(path))
            try:
                # On one device: its batch need not be one that all could share.
                found = load_run(str(path), dataset, jax.local_devices()[:1])
            except UserError as error:
                raise UserError(
                    f"the teacher {str(path)!r}: {error}. {_AGAIN}"
                ) from error
            _record(workdir, path, found)
            loaded.append(found)
        return loaded[0]

    model = models.build(**taught.model, num_classes=dataset.num_classes)

    return Teacher(
        model=model,
        variables=lambda: load().variables,
        mean_probs=lambda temperature: mean_probs(load(), temperature),
    )


def teacher_config(config: ConfigDict) -> ConfigDict:
    """The config of the teacher that is trained where none is given."""
    taught = ConfigDict(config.to_dict())
    taught.method = default_config().method
    taught.method.name = "standard"
    taught.model.name = config.method.teacher_model or config.model.name
    taught.seed = config.method.teacher_seed
    if config.method.teacher_examples:
        taught.data.train_examples = max(0, config.method.teacher_examples)
    taught.total_steps = config.method.teacher_steps or config.total_steps
    taught.evaluate_test = True  # one teacher for trials and final runs
    return taught.lock()


def mean_probs(run: Run, temperature: float) -> np.ndarray:
    """Mean probabilities `[classes, classes]` for the training examples of each class.

    Args:
      run: of the teacher.
      temperature: of its softmax.
    """
    experiment = run.experiment
    logits_fn = make_logits_fn(experiment.model, run.variables)
    probs_fn = jax.jit(lambda x: jax.nn.softmax(logits_fn(x) / temperature))
    classes = experiment.dataset.num_classes
    sums, counts = np.zeros((classes, classes)), np.zeros(classes)
    for pixels, labels, count in padded_batches(
        experiment.dataset.train,
        experiment.config.eval_batch_size,
        threads=experiment.config.data.read_threads,
    ):
        probs = np.asarray(probs_fn(experiment.inputs(pixels)), np.float64)
        np.add.at(sums, labels[:count], probs[:count])
        np.add.at(counts, labels[:count], 1)
    if not counts.all():
        missing = experiment.dataset.class_names[int(np.argmin(counts))]
        raise UserError(
            f"the training split has no example of class {missing!r}, so its mean is "
            "not known; use another component"
        )
    return sums / counts[:, None]


def read_record(workdir: epath.Path) -> dict[str, Any] | None:
    """What `teacher.json` of a student says of its teacher, if it has one.

    Raises:
      UserError: it is damaged.
    """
    stored = workdir / "teacher.json"
    return read_json(stored, "state_sha256") if stored.exists() else None


def _check(
    config: ConfigDict,
    taught: ConfigDict,
    path: epath.Path,
    kind: str,
    dataset: Dataset,
) -> None:
    """Raises a UserError for a teacher that cannot teach this student."""
    check_same_data(config, taught, str(path))
    here, there = fields(config), fields(taught)
    differing = [
        f"model.{n}"
        for n in ("name", "stem")
        if here[f"model.{n}"] != there[f"model.{n}"]
    ]
    if kind == "same network" and differing:
        raise UserError(
            f"{config.method.name} learns from a network of its own kind; the teacher "
            f"{str(path)!r} has {differing[0]}={there[differing[0]]}, this run "
            f"{here[differing[0]]}: use --config.method.name=kd"
        )
    if not differing and config.seed == taught.seed:
        raise UserError(
            f"the teacher {str(path)!r} has the seed of this run, {config.seed}, and "
            "the same network: this run would start from its first values; choose "
            "another --config.seed"
        )
    if not (path / "summary.json").exists():
        raise UserError(
            f"the teacher {str(path)!r} is not finished; run its own command first"
        )
    theirs, ours = _summary(path)["classes"], dataset.describe_classes()
    if theirs != ours:
        raise UserError(
            f"the teacher {str(path)!r} was trained on other data: "
            + (
                f"{theirs['count']} classes there, {ours['count']} here"
                if theirs["count"] != ours["count"]
                else "the classes have other names"
            )
        )


def _summary(path: epath.Path) -> dict[str, Any]:
    try:
        summary = json.loads((path / "summary.json").read_text())
        needed = ("state_sha256", "classes", *_RECORDED)
        return {name: summary[name] for name in needed}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"summary.json of the teacher {str(path)!r} is damaged, or of an older "
            f"version ({error}). {_AGAIN}"
        ) from error


def _record(workdir: epath.Path, path: epath.Path, found: Run) -> None:
    """Writes which teacher the run has, or compares it with what was written."""
    summary = _summary(path)
    wanted = summary["state_sha256"]
    if found.state_sha256 != wanted:
        raise UserError(
            f"the last checkpoint of the teacher {str(path)!r} is damaged. {_AGAIN}"
        )
    before = read_record(workdir)
    if before and before["state_sha256"] != wanted:
        raise UserError(
            f"the teacher in {str(path)!r} is not the one that this run began with "
            f"({wanted[:12]} instead of {before['state_sha256'][:12]}); bring it back, "
            "or choose another --workdir"
        )
    if not before and is_first():
        config = found.experiment.config
        record = {
            "workdir": str(path),
            "method": config.method.name,
            "model": config.model.name,
            "seed": config.seed,
            "state_sha256": wanted,
            **{name: summary[name] for name in _RECORDED},
        }
        write_json(workdir / "teacher.json", record)
