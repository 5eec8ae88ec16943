"""Reads the runs of a study as records, from its folder or from earlier results."""

import dataclasses
import math
import shlex
from collections.abc import Mapping
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from introspect_jax.config import fields
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.train.files import read_json, read_lines
from studies.records import read_results

# Entries of metrics.jsonl that a record keeps.
_CURVES = {
    "train": ("step", "loss", "accuracy", "target_entropy", "distillation"),
    "validation": ("step", "top1", "nll"),
}
_CURVE_POINTS = 20


@dataclasses.dataclass(frozen=True)
class Collected:
    """A study and its finished runs.

    Attributes:
      study: Content of `study.json`.
      records: Id -> record of a finished run, see `_record`.
      failed: Content of the files in `failed/`, see `_failed`.
      workdir: Folder of the study.
    """

    study: dict[str, Any]
    records: dict[str, dict[str, Any]]
    failed: list[dict[str, Any]]
    workdir: epath.Path

    def finals(self, setting: str, arm: str) -> dict[int, dict[str, Any]]:
        """Seed -> record of a finished final run."""
        ids = self.study["final"].get(setting, {}).get(arm, {})
        return {
            int(seed): self.records[id]
            for seed, id in ids.items()
            if id in self.records
        }

    def name(self, id: str) -> str:
        """Name of the file of a record."""
        record = self.records[id]
        words = [record["phase"], record["setting"], record["arm"], record["trial"]]
        words += [f"seed {record['seed']}"]
        if record["phase"] == "final":
            words = words[1:]
        text = " ".join(word for word in words if word)
        kept = "".join(c if c.isalnum() or c in ".=" else "-" for c in text)
        return f"{kept.strip('-')}-{id}.json"


def collect(workdir: str, output: epath.Path) -> Collected:
    """Reads a study.

    Args:
      workdir: Its folder.
      output: Folder with earlier results of the study. Their runs are included, since
        they may have been done elsewhere.

    Raises:
      UserError: The folder is not that of a study, has no finished run, or the results
        are those of another study or device.
    """
    root = absolute(workdir)
    stored = root / "study.json"
    if not stored.exists():
        raise UserError(
            f"--workdir {workdir!r} is not the folder of a study: it has no "
            "study.json; give that of launch/study.py"
        )
    study = read_json(stored, "name", "final", "runs")
    before = output / "statistics.json"
    if (
        before.exists()
        and (other := read_json(before, "name")["name"]) != study["name"]
    ):
        raise UserError(
            f"--output {str(output)!r} has results of the study {other!r}, not of "
            f"{study['name']!r}; give another folder"
        )
    records = _records(study, root, output)
    if not any(record["phase"] == "final" for record in records.values()):
        raise UserError(f"no final run of the study in {workdir!r} is finished yet")
    return Collected(study, records, _failed(root, output, records), root)


def _failed(
    root: epath.Path, output: epath.Path, records: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What `failed/` of the study says, and of earlier results, but for runs that are
    finished since."""
    needed = ("id", "setting", "arm", "trial", "seed", "message")
    found = {}
    for folder in (output, root):
        for file in sorted((folder / "failed").glob("*.json")):
            found[file.name] = read_json(file, *needed)
    order = ("setting", "arm", "trial", "seed")
    return sorted(
        (entry for entry in found.values() if entry["id"] not in records),
        key=lambda entry: [entry[name] for name in order],
    )


def _records(
    study: dict[str, Any], root: epath.Path, output: epath.Path
) -> dict[str, dict[str, Any]]:
    """Id -> record of a finished run, from its folder or from earlier results."""
    # Studies of earlier versions do not have the fields of their config file.
    plain = study.get("config_fields", {})
    planned = {entry["id"]: plain | entry["changes"] for entry in study["runs"]}
    committed = read_results(output, planned)
    records = {}
    for entry in study["runs"]:
        id, folder = entry["id"], root / entry["folder"]
        if (folder / "summary.json").exists():
            records[id] = _record(study, entry, folder)
            _check_device(records[id], committed.get(id), output)
        elif id in committed:
            # It may have had another name then.
            names = ("phase", "setting", "arm", "trial", "seed")
            records[id] = committed[id] | {name: entry[name] for name in names}
    return records


def _check_device(
    new: dict[str, Any], old: dict[str, Any] | None, output: epath.Path
) -> None:
    """Raises UserError if results of one device would replace those of another."""
    if old is None:
        return
    new_kind, old_kind = (r["summary"]["device"]["platform"] for r in (new, old))
    if new_kind != old_kind:
        raise UserError(
            f"--output {str(output)!r} has results of a {old_kind}, and these are of a "
            f"{new_kind}; give another folder, so that both are kept"
        )


def without_folders(recorded: dict[str, Any] | None) -> dict[str, Any] | None:
    """The record of a teacher, and of its own teachers, with ids instead of folders."""
    if not recorded:
        return None
    teacher = dict(recorded)
    teacher["id"] = epath.Path(teacher.pop("workdir")).name.rpartition("-")[2]
    if "teacher" in teacher:
        teacher["teacher"] = without_folders(teacher["teacher"])
    return teacher


def _record(
    study: dict[str, Any], entry: dict[str, Any], folder: epath.Path
) -> dict[str, Any]:
    """The record of a run, without names of local folders."""
    summary = read_json(folder / "summary.json", "test", "device")
    summary["teacher"] = without_folders(summary.get("teacher"))
    steps = ("total_steps", "log_steps", "eval_steps")
    config = read_json(folder / "config.json", *steps)
    # A run that was stopped on the way has records in between, of fewer steps.
    regular = {"train": config["log_steps"], "validation": config["eval_steps"]}
    curves: dict[str, list[dict[str, Any]]] = {"train": [], "validation": []}
    for line in read_lines(folder / "metrics.jsonl"):
        split, step = line["split"], line["step"]
        if split in curves and (
            step % regular[split] == 0 or step == config["total_steps"]
        ):
            kept = {n: line[n] for n in _CURVES[split] if n in line}
            curves[split].append(kept)  # not rounded: statistics are made of it
    every = max(1, math.ceil(len(curves["train"]) / _CURVE_POINTS))
    curves["train"] = curves["train"][::-1][::every][::-1]  # the last is among them
    return {
        "id": entry["id"],
        "phase": entry["phase"],
        "setting": entry["setting"],
        "arm": entry["arm"],
        "trial": entry["trial"],
        "seed": entry["seed"],
        "command": command(study["config"], entry["changes"]),
        "config": fields(ConfigDict(config)),
        "summary": summary,
        "curves": curves,
    }


def command(config: str, changes: dict[str, Any]) -> str:
    """The command line of a run."""
    words = ["python", "launch/main.py", f"--config={config}"]
    for name, value in changes.items():
        shown = tuple(value) if isinstance(value, list) else value
        words.append(f"--config.{name}={shown}")
    return shlex.join(words)
