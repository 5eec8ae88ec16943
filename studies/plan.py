"""From a study to its runs, as far as they are known yet."""

import dataclasses
import itertools
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from introspect_jax import methods
from introspect_jax.config import LOCATIONS, config_hash, default_config, fields
from introspect_jax.errors import UserError
from introspect_jax.teachers import teacher_config
from studies.design import Study, base_config, with_fields
from studies.sweeps import Fields, Point

# In the order in which they are done.
PHASES = ("teacher", "trial", "final")
Summaries = Mapping[str, Mapping[str, Any]]


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a study.

    Attributes:
      phase: one of `PHASES`.
      setting: name of the setting.
      arm: name of the arm; of a teacher, that of the first arm it teaches.
      trial: name of what is tried, or what was chosen.
      config: of the run.
      teacher: id of the run that must be finished first, or None.
      id: of the config: arms that come to the same share their runs.
      program: of the config without its seed: runs that differ in nothing else share
        one compiled program.
      changes: what is set beside the config file of the study: field -> value.
    """

    phase: str
    setting: str
    arm: str
    trial: str
    config: ConfigDict
    teacher: str | None
    id: str
    program: str
    changes: Fields

    @property
    def seed(self) -> int:
        return self.config.seed


@dataclasses.dataclass(frozen=True)
class Plan:
    """The runs of a study.

    Attributes:
      runs: in the order in which they are to be done.
      chosen: `(setting, arm)` -> name of the best trial, where all are finished.
      waiting: final runs that are not known before a choice is made.
    """

    runs: tuple[Run, ...]
    chosen: Mapping[tuple[str, str], str]
    waiting: int

    def to_do(self, done: Summaries, is_here: Callable[[str], bool]) -> list[Run]:
        """The runs that are not finished.

        Teachers only while they have students left, and then until their networks are
        at hand (`is_here`): a result from elsewhere teaches nobody.
        """
        teachers = {r.id: r.teacher for r in self.runs}
        wanted = set()
        for run in self.runs:
            if run.id in done or run.phase == "teacher":
                continue
            wanted.add(run.id)
            teacher = run.teacher
            while teacher is not None and not is_here(teacher):
                wanted.add(teacher)
                teacher = teachers[teacher]
        return [run for run in self.runs if run.id in wanted]


class Planner:
    """Makes the plan of a study; what does not change is made once."""

    def __init__(self, study: Study):
        """Raises a UserError for an invalid config."""
        self.study = study
        self.config_name, plain = base_config(study)
        # Of the config file as it stands: what a run changes is set beside it.
        self.config_fields = fields(plain)
        self._base = with_fields(plain, study.fields)
        self._made: dict[tuple, tuple[Run, ...]] = {}
        for run in self.plan({}).runs:
            if run.phase == "trial" and not run.config.data.validation_fraction:
                raise UserError(
                    "trials of the study are scored on the validation split, and "
                    "data.validation_fraction is 0"
                )

    def plan(self, summaries: Summaries) -> Plan:
        """The plan, given the `summary.json` of what is finished, by id."""
        study = self.study
        trials: list[Run] = []
        finals: list[Run] = []
        chosen: dict[tuple[str, str], str] = {}
        waiting = 0
        for seed in study.tuning_seeds:
            for setting in study.settings:
                for arm in study.arms:
                    for trial in study.trials.get(arm.name, ()):
                        trials += self._runs("trial", setting, arm, trial, seed)
        for setting in study.settings:
            for arm in study.arms:
                if arm.name in study.trials:
                    scored = self._best(setting, arm, summaries)
                    if scored:
                        chosen[setting.name, arm.name] = scored.name
        for seed in study.seeds:
            for setting in study.settings:
                for arm in study.arms:
                    best = self._trial(setting, arm, chosen)
                    if best is None:
                        waiting += 1
                    else:
                        finals += self._runs("final", setting, arm, best, seed)
        once = {run.id: run for run in reversed([*trials, *finals])}
        ordered = list(once.values())[::-1]
        # Keeps their order, but for teachers that have teachers.
        ordered.sort(key=lambda run: (PHASES.index(run.phase), _generation(run, once)))
        return Plan(
            runs=tuple(ordered),
            chosen=chosen,
            waiting=waiting,
        )

    def possible(self) -> dict[str, Fields]:
        """Id -> the fields of its config, of all runs whatever trials are chosen."""
        study = self.study
        runs: list[Run] = []
        for setting, arm in itertools.product(study.settings, study.arms):
            seeds = [("final", seed) for seed in study.seeds]
            trials = study.trials.get(arm.name)
            if trials is not None:
                seeds += [("trial", seed) for seed in study.tuning_seeds]
            for trial in trials or (Point("", {}),):
                for phase, seed in seeds:
                    runs += self._runs(phase, setting, arm, trial, seed)
        return {run.id: fields(run.config) for run in runs}

    def arms_of(self, plan: Plan) -> dict[str, dict[str, dict[int, str]]]:
        """Setting -> arm -> seed -> id of its final run, as far as known."""
        study = self.study
        table: dict[str, dict[str, dict[int, str]]] = {}
        for setting in study.settings:
            for arm in study.arms:
                trial = self._trial(setting, arm, plan.chosen)
                if trial is None:
                    continue
                runs = table.setdefault(setting.name, {}).setdefault(arm.name, {})
                for seed in study.seeds:
                    runs[seed] = self._runs("final", setting, arm, trial, seed)[-1].id
        return table

    def _trial(
        self, setting: Point, arm: Point, chosen: Mapping[tuple[str, str], str]
    ) -> Point | None:
        """What the final runs of an arm have beside it; None before it is chosen."""
        trials = self.study.trials.get(arm.name)
        if trials is None:
            return Point("", {})
        name = chosen.get((setting.name, arm.name))
        return next((trial for trial in trials if trial.name == name), None)

    def _runs(
        self, phase: str, setting: Point, arm: Point, trial: Point, seed: int
    ) -> tuple[Run, ...]:
        """The run, after its teachers where it has some."""
        key = (phase, setting.name, arm.name, trial.name, seed)
        if key not in self._made:
            changes = {**setting.fields, **arm.fields, **trial.fields, "seed": seed}
            if phase == "trial":
                changes["evaluate_test"] = False
            config = with_fields(self._base, changes)
            names = (setting.name, arm.name, trial.name)
            self._made[key] = self._with_teachers(phase, names, config)
        return self._made[key]

    def _with_teachers(
        self, phase: str, names: tuple[str, str, str], config: ConfigDict
    ) -> tuple[Run, ...]:
        """The run of a config, after its teacher's, which may have a teacher too."""
        before: tuple[Run, ...] = ()
        if methods.teacher_kind(config.method.name) and not config.method.teacher:
            before = self._with_teachers("teacher", names, teacher_config(config))
        teacher = before[-1].id if before else None
        return (*before, self._run(phase, *names, config, teacher))

    def _run(
        self,
        phase: str,
        setting: str,
        arm: str,
        trial: str,
        config: ConfigDict,
        teacher: str | None,
    ) -> Run:
        unseeded = ConfigDict(config.to_dict())
        unseeded.seed = 0
        plain = self.config_fields
        return Run(
            phase=phase,
            setting=setting,
            arm=arm,
            trial=trial,
            config=config,
            teacher=teacher,
            id=_hash(config),
            program=_hash(unseeded),
            changes={
                name: value
                for name, value in fields(config).items()
                if name not in plain or value != plain[name]
            },
        )

    def _best(self, setting: Point, arm: Point, summaries: Summaries) -> Point | None:
        """The trial with the best mean validation top-1; the first in a tie."""
        scores = []
        for trial in self.study.trials[arm.name]:
            found = [
                summaries.get(self._runs("trial", setting, arm, trial, seed)[-1].id)
                for seed in self.study.tuning_seeds
            ]
            known = [summary for summary in found if summary is not None]
            if len(known) < len(found):
                return None
            tops = [summary["validation"]["last"]["top1"] for summary in known]
            scores.append((statistics.mean(tops), trial))
        return max(scores, key=lambda pair: pair[0])[1]


def _generation(run: Run, runs: Mapping[str, Run]) -> int:
    """How many teachers a teacher has had, one after the other; 0 for other runs."""
    if run.phase != "teacher" or run.teacher is None:
        return 0
    return 1 + _generation(runs[run.teacher], runs)


def _hash(config: ConfigDict) -> str:
    """Tells the runs of a study apart, in which arms may differ by where their data or
    teachers lie."""
    plain, here = fields(default_config()), fields(config)
    places = {n: str(here[n]) for n in LOCATIONS if here[n] != plain[n]}
    return config_hash(config, **places)
