"""The folder of a study: what is to be done, what is done, what failed."""

import contextlib
import json
import tempfile
from collections.abc import Mapping
from typing import Any

from absl import logging
from etils import epath

from introspect_jax.config import former_value
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.train.files import read_json, write_json
from introspect_jax.writer import only_writer
from studies.design import Study
from studies.plan import Plan, Planner, Run
from studies.sweeps import Fields


def read_results(
    folder: epath.Path, planned: Mapping[str, Fields]
) -> dict[str, dict[str, Any]]:
    """Id -> record of the planned runs that a folder of results has, see `report`.

    Ids are hashes of what differs from the defaults. So a record of a version with
    other defaults may have the id of a planned run; a warning names the field, and the
    record is left out. Fields that only one of the two configs has are not compared:
    they came or went with a version.

    Args:
      folder: of results.
      planned: id -> the fields of its config.

    Raises:
      UserError: a record is damaged.
    """
    kept, refused = {}, []
    for file in sorted((folder / "runs").glob("*.json")):
        record = read_json(file, "id", "phase", "config", "summary")
        if record["id"] not in planned:
            continue
        difference = _difference(record["config"], planned[record["id"]])
        if difference:
            refused.append(f"{file.name} has {difference}")
        else:
            kept[record["id"]] = record
    if refused:
        logging.warning(
            "%d records in %s do not count, for they are of other configs: %s",
            len(refused),
            folder,
            refused[0],
        )
    return kept


def _difference(recorded: Fields, planned: Fields) -> str | None:
    """The first field that differs, of those in both; JSON has lists for tuples."""
    planned = json.loads(json.dumps(planned))
    for name in sorted(recorded.keys() & planned.keys()):
        if former_value(name, recorded[name]) != former_value(name, planned[name]):
            return f"{name}={recorded[name]!r}, the study {planned[name]!r}"
    return None


class Records:
    """`study.json`, `runs/`, `logs/` and `failed/` of a study's folder."""

    def __init__(self, path: str, name: str, config_name: str):
        """Makes the folder.

        Args:
          path: of the folder.
          name: of the study.
          config_name: of the config that all runs start from.

        Raises:
          UserError: it cannot be written, or is another study's.
        """
        self._root = absolute(path)
        self._name, self._config_name = name, config_name
        self._summaries: dict[str, Mapping[str, Any]] = {}
        self._elsewhere: set[str] = set()
        try:
            (self._root / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir {path!r} cannot be written: {error}") from error

        stored = self._root / "study.json"
        if stored.exists() and (there := read_json(stored).get("name")) != name:
            raise UserError(
                f"--workdir {path!r} is of the study {there!r}, not {name!r}; give "
                "each study a folder of its own"
            )

    def count_results(self, folder: str, planned: Mapping[str, Fields]) -> None:
        """Counts the planned runs as done that are in a folder of results.

        Args:
          folder: of results.
          planned: id -> the fields of its config.

        Raises:
          UserError: there are no results in it.
        """
        if not any(absolute(folder).glob("runs/*.json")):
            raise UserError(
                f"--done {folder!r} has no runs/*.json; give a folder that "
                "launch/report.py wrote"
            )
        for id, record in read_results(absolute(folder), planned).items():
            self._summaries[id] = record["summary"]
            self._elsewhere.add(id)

    def folder(self, id: str) -> epath.Path:
        """The work folder of a run, where its students look for a teacher too."""
        return self._root / "runs" / f"{self._config_name}-{id}"

    def log(self, id: str) -> epath.Path:
        """What the run printed."""
        root = self._root
        if "://" in str(root):  # a log grows line by line, which object stores cannot
            root = epath.Path(tempfile.gettempdir()) / "introspect_jax"
        return root / "logs" / f"{id}.txt"

    def summaries(self) -> dict[str, Mapping[str, Any]]:
        """Id -> `summary.json` of every finished run."""
        for folder in (self._root / "runs").iterdir():
            id = folder.name.rpartition("-")[2]
            file = folder / "summary.json"
            if id in self._summaries and id not in self._elsewhere:
                continue
            if file.exists():
                # One that is damaged is not finished: its run writes it anew.
                with contextlib.suppress(ValueError):
                    self._summaries[id] = json.loads(file.read_text())
                    self._elsewhere.discard(id)
        return self._summaries

    def is_here(self, id: str) -> bool:
        """Whether the run is finished, and its network in this folder."""
        return id in self.summaries() and id not in self._elsewhere

    def write_study(self, study: Study, planner: Planner, plan: Plan) -> None:
        """`study.json`: all that a report needs to know beside the runs."""
        write_json(
            self._root / "study.json",
            {
                "name": self._name,
                "question": study.question,
                "data": study.data,
                "about": study.about,
                "config": study.config,
                "config_fields": planner.config_fields,
                "arms": [p.name for p in study.arms],
                "settings": [p.name for p in study.settings],
                "seeds": list(study.seeds),
                "tuning_seeds": list(study.tuning_seeds),
                "baseline": study.baseline,
                "controls": list(study.controls),
                "contrasts": [list(pair) for pair in study.contrasts],
                "chosen": [
                    {"setting": setting, "arm": arm, "trial": trial}
                    for (setting, arm), trial in plan.chosen.items()
                ],
                "waiting": plan.waiting,
                "final": planner.arms_of(plan),
                "runs": [
                    {
                        "id": run.id,
                        "folder": f"runs/{self._config_name}-{run.id}",
                        "phase": run.phase,
                        "setting": run.setting,
                        "arm": run.arm,
                        "trial": run.trial,
                        "seed": run.seed,
                        "teacher": run.teacher,
                        "changes": dict(run.changes),
                    }
                    for run in plan.runs
                ],
            },
        )

    def failures(self) -> dict[str, str]:
        """Id -> message of the runs that failed when they were last tried."""
        found = (self._root / "failed").glob("*.json")
        return {file.stem: read_json(file, "message")["message"] for file in found}

    def write_failure(self, run: Run, message: str) -> None:
        """Records that the run failed."""
        folder = self._root / "failed"
        folder.mkdir(parents=True, exist_ok=True)
        record = {
            "id": run.id,
            "setting": run.setting,
            "arm": run.arm,
            "trial": run.trial,
            "seed": run.seed,
            "message": message,
        }
        write_json(folder / f"{run.id}.json", record)

    def clear_failure(self, id: str) -> None:
        """The run has been done after all."""
        file = self._root / "failed" / f"{id}.json"
        if file.exists():
            file.unlink()

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Holds the folder; see `only_writer`."""
        return only_writer(self._root)
