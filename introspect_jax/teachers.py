"""The teacher of a run: another run, which is trained first if necessary."""

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax import cpu, methods, models
from introspect_jax.config import default_config, lock
from introspect_jax.data.batches import padded_batches
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.methods import Teacher
from introspect_jax.paths import absolute
from introspect_jax.processes import is_first
from introspect_jax.restore import Run, load, load_config
from introspect_jax.teacher_data import check_fits
from introspect_jax.train.files import read_json, write_json
from introspect_jax.workdir import default_workdir

_AGAIN = "If it is lost, remove its summary.json and run its own command again"
# Of the teacher's summary, in that of its students; its own teacher comes on top.
_RECORDED = ("test", "steps", "seconds", "cost")


@dataclasses.dataclass(frozen=True)
class TeacherRun:
    """The run that a student learns from; it may not be trained yet.

    Attributes:
      name: Of the config.
      config: Of the teacher.
      folder: Its work folder.
      model: Its network.
      dataset: Of both.
      workdir: Of the student; `teacher.json` in it says which teacher it has.
    """

    name: str
    config: ConfigDict
    folder: epath.Path
    model: nn.Module
    dataset: Dataset
    workdir: epath.Path

    def resolve(self, train_first: Callable[[str, ConfigDict, str], Any]) -> Teacher:
        """Returns the trained teacher; trains it first if necessary.

        Args:
          train_first: `run.run`, and what stops it.

        Raises:
          UserError: It cannot be read, or is not the one that the student began with.
        """
        if not (self.folder / "summary.json").exists():
            logging.warning("the teacher is trained first, in %s", self.folder)
            train_first(self.name, self.config, str(self.folder))
        try:
            # On one device: its batch need not be one that all could share.
            run = load(str(self.folder), devices=jax.local_devices()[:1])
        except UserError as error:
            raise UserError(
                f"the teacher {str(self.folder)!r}: {error}. {_AGAIN}"
            ) from error
        # What is asked of it is about the student's data.
        run = dataclasses.replace(run, load_dataset=lambda: self.dataset)
        _record(self.workdir, self.folder, run)
        return Teacher(run.variables, functools.partial(mean_probs, run))


def find(
    name: str,
    config: ConfigDict,
    workdir: epath.Path,
    dataset: Dataset,
    folder: epath.Path | None = None,
) -> TeacherRun | None:
    """Returns the teacher that `config.method` asks for, or None if the method has
    none.

    It is `method.teacher`, a finished run; or else one that is trained first, by
    standard training with `method.teacher_model` and `method.teacher_seed`
    (`methods.taught_by`), in the folder beside this run's that its own command would
    take, where all students of its config and data find it. Nothing is trained or read
    here: see `TeacherRun.resolve`.

    Args:
      name: Of the config.
      config: Of the student.
      workdir: Of the student.
      dataset: Of both.
      folder: Of the teacher that is trained first; by default beside the student's.

    Raises:
      UserError: A teacher that is not there, not finished, of other data or classes,
        or of another kind than the method needs.
    """
    kind = methods.teacher_kind(config.method.name)
    if kind is None:
        return None
    if config.method.teacher:
        folder = absolute(config.method.teacher)
        if folder == workdir:
            raise UserError(
                f"method.teacher {str(folder)!r} is the work folder of this run"
            )
        taught = load_config(config.method.teacher)
        _check(config, taught, folder, kind, dataset)
    else:
        taught = teacher_config(config)
        default = default_workdir(name, taught, data=dataset.identity.sha256)
        folder = folder or workdir.parent / default.rpartition("/")[2]
    model = models.from_config(taught.model, dataset.num_classes)
    return TeacherRun(name, taught, folder, model, dataset, workdir)


def teacher_config(config: ConfigDict) -> ConfigDict:
    """Returns the config of the teacher that is trained if none is given."""
    taught = ConfigDict(config.to_dict())
    taught.method, taught.seed = methods.taught_by(config.method)
    taught.explain = default_config().explain  # students may show what they like
    taught.model = methods.teacher_model(config)
    if config.method.teacher_examples:
        taught.data.train_examples = max(0, config.method.teacher_examples)
    taught.total_steps = config.method.teacher_steps or config.total_steps
    taught.evaluate_test = True  # one teacher for trials and final runs
    return lock(taught)


def mean_probs(run: Run, temperature: float) -> np.ndarray:
    """Returns mean probabilities `[classes, classes]` over the training examples of
    each class.

    Args:
      run: of the teacher.
      temperature: of its softmax.
    """
    probs_fn = cpu.jit(lambda x: jax.nn.softmax(run.logits_fn(x) / temperature))
    classes = len(run.class_names)
    sums, counts = np.zeros((classes, classes)), np.zeros(classes)
    for pixels, labels, count in padded_batches(
        run.dataset.train,
        run.config.eval_batch_size,
        threads=run.config.data.read_threads,
    ):
        probs = np.asarray(probs_fn(run.preprocess(pixels)), np.float64)
        np.add.at(sums, labels[:count], probs[:count])
        np.add.at(counts, labels[:count], 1)
    if not counts.all():
        missing = run.class_names[int(np.argmin(counts))]
        raise UserError(
            f"the training split has no example of class {missing!r}, so its mean is "
            "not known; use another component"
        )
    return sums / counts[:, None]


def read_record(workdir: epath.Path) -> dict[str, Any] | None:
    """Returns the record of the teacher in the work folder of a student, or None.

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
    """Raises a UserError if the teacher does not suit this student."""
    here, there = models.identity(config.model), models.identity(taught.model)
    names = sorted(here.keys() | there.keys())
    differing = [name for name in names if here.get(name) != there.get(name)]
    if kind == "same network" and differing:
        field = differing[0]
        raise UserError(
            f"{config.method.name} learns from a network of its own kind; the teacher "
            f"{str(path)!r} has model.{field}={there.get(field)}, this run "
            f"{here.get(field)}: use --config.method.name=kd"
        )
    if not differing and config.seed == taught.seed:
        raise UserError(
            f"the teacher {str(path)!r} has the seed of this run, {config.seed}, and "
            "the same network: this run would start from its first values; choose "
            "another --config.seed"
        )
    if not (path / "summary.json").exists():
        raise _not_finished(path)
    check_fits(config, taught, path, dataset)


def check_recorded(config: ConfigDict, workdir: epath.Path) -> None:
    """Raises a UserError if `method.teacher` exists and is not the run that the student
    in the folder learned from."""
    path, before = config.method.teacher, read_record(workdir)
    if not path or before is None:
        return
    folder = absolute(path)
    if (folder / "summary.json").exists():
        _compare(before, folder, _summary(folder)["state_sha256"])


def digest(config: ConfigDict) -> dict[str, str]:
    """Returns the digest of the teacher's state, which is part of the student's
    identity."""
    if not config.method.teacher or methods.teacher_kind(config.method.name) is None:
        return {}
    folder = absolute(config.method.teacher)
    if not (folder / "summary.json").exists():
        load_config(config.method.teacher)  # says if it is no run at all
        raise _not_finished(folder)
    return {"teacher": _summary(folder)["state_sha256"]}


def _not_finished(path: epath.Path) -> UserError:
    return UserError(
        f"the teacher {str(path)!r} is not finished; run its own command first"
    )


def _summary(path: epath.Path) -> dict[str, Any]:
    try:
        summary = json.loads((path / "summary.json").read_text())
        needed = ("state_sha256", *_RECORDED)
        return {name: summary[name] for name in needed} | {
            "teacher": summary.get("teacher")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"summary.json of the teacher {str(path)!r} is damaged, or of an older "
            f"version ({error}). {_AGAIN}"
        ) from error


def _record(workdir: epath.Path, path: epath.Path, found: Run) -> None:
    """Records the teacher in the work folder, or compares it with the record."""
    summary = _summary(path)
    wanted = summary["state_sha256"]
    if found.state_sha256 != wanted:
        raise UserError(
            f"the last checkpoint of the teacher {str(path)!r} is damaged. {_AGAIN}"
        )
    before = read_record(workdir)
    if before:
        _compare(before, path, wanted)
    if not before and is_first():
        config = found.config
        record = {
            "workdir": str(path),
            "method": config.method.name,
            "model": config.model.name,
            "seed": config.seed,
            "state_sha256": wanted,
            **{name: summary[name] for name in (*_RECORDED, "teacher")},
        }
        write_json(workdir / "teacher.json", record)


def _compare(before: dict[str, Any], path: epath.Path, sha256: str) -> None:
    if before["state_sha256"] != sha256:
        raise UserError(
            f"the teacher in {str(path)!r} is not the one that this run began with "
            f"({sha256[:12]} instead of {before['state_sha256'][:12]}); bring it back, "
            "or choose another --workdir"
        )
