"""From a study to its runs."""

import pytest
import tiny
from conftest import ROOT
from etils import epath

from introspect_jax.config import config_hash, fields
from introspect_jax.errors import UserError
from studies import Study, chain, point, product, sweep
from studies.design import load_study
from studies.plan import Planner
from studies.records import read_results

EPSILON = "method.label_smoothing.epsilon"
ARMS = chain(
    point("standard", {"method.name": "standard"}),
    point("smoothing", {"method.name": "label_smoothing"}),
    point("kd", {"method.name": "kd", "method.teacher_model": "resnet20"}),
    point("hot kd", {"method.name": "kd", "method.kd.temperature": 8.0}),
)


@pytest.fixture(autouse=True)
def from_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def make(**changes):
    given = {
        "question": "?",
        "config": "configs/digits.py",
        "arms": ARMS,
        "seeds": (0, 1),
        "baseline": "standard",
    }
    return Study(**given | changes)


def scored(top1):
    return {"validation": {"last": {"top1": top1}}}


def test_every_arm_with_every_seed_after_their_teachers():
    runs = Planner(make(fields={"total_steps": 7})).plan({}).runs
    assert [r.phase for r in runs] == ["teacher"] * 2 + ["final"] * 8
    assert [(r.arm, r.seed) for r in runs[2:6]] == [(p.name, 0) for p in ARMS]
    assert {r.config.model.name for r in runs[:2]} == {"resnet20", "resnet8"}
    assert {r.config.total_steps for r in runs} == {7}
    # One teacher serves all seeds of its arm.
    assert {r.teacher for r in runs if r.arm == "kd" and r.phase == "final"} == {
        runs[0].id
    }
    for run in runs:
        assert run.id == config_hash(run.config)
        assert run.changes.items() <= fields(run.config).items()


def test_seeds_are_paired_and_share_a_program():
    runs = Planner(make(arms=ARMS[:2])).plan({}).runs
    for arm in ("standard", "smoothing"):
        same = [r for r in runs if r.arm == arm]
        assert [r.seed for r in same] == [0, 1]
        assert len({r.program for r in same}) == 1
        assert len({r.id for r in same}) == 2
    assert len({r.program for r in runs}) == 2


def test_a_teacher_is_trained_only_while_it_has_students_left():
    planner = Planner(make(arms=ARMS[:3]))
    runs = planner.plan({}).runs
    nowhere, here = (lambda id: False), (lambda id: True)
    assert [r.phase for r in planner.plan({}).to_do({}, nowhere)].count("teacher") == 1
    assert {r.phase for r in planner.plan({}).to_do({}, here)} == {"final"}
    done = {r.id: {} for r in runs if r.arm == "kd" and r.phase == "final"}
    assert {r.phase for r in planner.plan(done).to_do(done, nowhere)} == {"final"}


def test_generations_are_planned_in_order():
    """Whatever other arms their first teacher has to wait for."""
    born = {"method.name": "ban", "method.ban.generations": 3}
    kd = point("kd", {"method.name": "kd"})
    planner = Planner(make(arms=chain(ARMS[:1], point("born again", born), kd)))
    plan = planner.plan({})
    teachers = [r for r in plan.runs if r.phase == "teacher"]
    assert [r.seed for r in teachers] == [1000, 1001, 1002]
    assert [r.teacher for r in teachers] == [None, teachers[0].id, teachers[1].id]
    last = [r for r in plan.runs if r.phase == "final" and r.arm == "born again"]
    assert {r.teacher for r in last} == {teachers[2].id}
    # A generation is needed until the one that it teaches is here.
    of_kd = {r.id: {} for r in plan.runs if r.phase == "final" and r.arm == "kd"}
    for here in range(4):
        ids = {r.id for r in teachers[3 - here :]}
        to_do = plan.to_do(of_kd, lambda id, ids=ids: id in ids)
        found = [r.seed for r in to_do if r.phase == "teacher"]
        assert found == ([] if here else [1000, 1001, 1002])
    to_do = plan.to_do(of_kd, lambda id: id == teachers[0].id)
    assert [r.seed for r in to_do if r.phase == "teacher"] == [1001, 1002]


def test_arms_of_one_config_share_their_runs():
    again = point("again", {"method.name": "standard"})
    planner = Planner(make(arms=chain(ARMS[:1], again)))
    plan = planner.plan({})
    assert len(plan.runs) == 2
    final = planner.arms_of(plan)[""]
    assert final["standard"] == final["again"]


def test_settings_multiply():
    settings = sweep("data.label_noise", [0.0, 0.2])
    plan = Planner(make(arms=ARMS[:2], settings=settings)).plan({})
    assert len(plan.runs) == 8
    assert {r.setting for r in plan.runs} == {"label_noise=0.0", "label_noise=0.2"}


def test_flips_are_switched_on_or_alternate():
    """A field of several types, whatever the config of the study has."""
    for config in ("configs/digits.py", "configs/cifar10.py"):
        settings = sweep("data.augment.flip", [True, False, "alternating"])
        study = make(config=config, arms=ARMS[:1], seeds=(0,), settings=settings)
        found = [r.config.data.augment.flip for r in Planner(study).plan({}).runs]
        assert found == [True, False, "alternating"]


def test_tuning_chooses_on_validation_and_then_runs():
    planner = Planner(
        make(
            arms=ARMS[:2],
            trials={"smoothing": sweep(EPSILON, [0.05, 0.1, 0.2])},
            tuning_seeds=(100, 101),
        )
    )
    plan = planner.plan({})
    trials = [r for r in plan.runs if r.phase == "trial"]
    assert [r.phase for r in plan.runs] == ["trial"] * 6 + ["final"] * 2
    assert plan.waiting == 2
    assert not any(r.config.evaluate_test for r in trials)
    assert {r.seed for r in trials} == {100, 101}
    # The best mean, not the best run.
    tops = {0.05: (0.9, 0.1), 0.1: (0.6, 0.7), 0.2: (0.5, 0.5)}
    summaries = {
        r.id: scored(tops[r.config.method.label_smoothing.epsilon][r.seed - 100])
        for r in trials
    }
    some = dict(list(summaries.items())[:-1])
    assert planner.plan(some).waiting == 2
    plan = planner.plan(summaries)
    assert plan.waiting == 0
    assert plan.chosen == {("", "smoothing"): "epsilon=0.1"}
    finals = [r for r in plan.runs if r.arm == "smoothing" and r.phase == "final"]
    assert {r.config.method.label_smoothing.epsilon for r in finals} == {0.1}
    assert all(r.config.evaluate_test for r in finals)
    assert planner.arms_of(plan)[""]["smoothing"] == {r.seed: r.id for r in finals}
    # The final runs of the two that were not chosen were possible too.
    possible = planner.possible()
    assert {r.id: fields(r.config) for r in plan.runs}.items() <= possible.items()
    assert len(possible) == len(plan.runs) + 2 * 2


def test_options_of_parts_from_outside(monkeypatch):
    """Which no default config knows."""

    def build(num_classes, width):
        return tiny.build_tiny(num_classes)

    monkeypatch.setattr(tiny, "build_with_width", build, raising=False)
    own = {"model.name": "tiny:build_with_width"}
    widths = sweep("model.options.width", [2, 4])
    arms = chain(ARMS[:1], product(point("own", own), widths))
    runs = Planner(make(arms=arms, seeds=(0,))).plan({}).runs
    assert [r.config.model.options.to_dict() for r in runs] == [
        {},
        {"width": 2},
        {"width": 4},
    ]
    # The method's name is that of the config file.
    assert runs[2].changes == own | {"model.options.width": 4}
    assert len({r.id for r in runs}) == 3


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"baseline": "standart"}, "did you mean 'standard'"),
        ({"controls": ["lsr"]}, "arm in controls of the study"),
        ({"controls": ["standard"]}, "cannot be a control"),
        (
            {
                "trials": {"kd": sweep("method.kd.alpha", [0.5])},
                "tuning_seeds": (9,),
                "fields": {"data.validation_fraction": 0.0},
            },
            "validation_fraction is 0",
        ),
        ({"contrasts": [("standard", "x")]}, "arm in contrasts"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (0, 0)}, "0 twice"),
        ({"tuning_seeds": (1,), "trials": {"kd": sweep("seed", [1])}}, "1 twice"),
        ({"trials": {"kd": sweep("seed", [5])}}, "go together"),
        (
            {
                "trials": {"kd": sweep("a", [5]), "standard": sweep("a", [1, 2])},
                "tuning_seeds": (9,),
            },
            "same number of trials",
        ),
        ({"fields": {"total_step": 3}}, "did you mean 'total_steps'"),
        ({"fields": {"total_steps": "many"}}, "sets total_steps to 'many'"),
        ({"fields": {"total_steps": 0}}, "total_steps must be at least 1"),
        ({"config": "configs/digit.py"}, "did you mean 'configs/digits.py'"),
    ],
)
def test_mistakes_are_told_in_a_line(changes, says):
    with pytest.raises(UserError, match=says) as caught:
        Planner(make(**changes))
    assert "\n" not in str(caught.value)


STUDIES = sorted((ROOT / "configs" / "studies").glob("[a-z]*.py"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_studies_of_the_project_can_be_planned(path):
    text = path.read_text()
    for argument in ("", *_arguments(text)):
        name, study = load_study(str(path) + argument)
        runs = Planner(study).plan({}).runs
        assert runs
        assert name.startswith(path.stem)
        assert study.controls, "a study without a positive control tells nothing"
    with pytest.raises(UserError, match="'nonsense'"):
        load_study(f"{path}:nonsense")


def _arguments(text):
    return [f":{word}" for word in ("forms", "little") if f'"{word}"' in text]


def test_a_file_that_is_no_study(tmp_path):
    (tmp_path / "broken.py").write_text("1 / 0")
    with pytest.raises(UserError, match="ZeroDivisionError"):
        load_study(str(tmp_path / "broken.py"))
    (tmp_path / "other.py").write_text("def get_study(arg=None): return 3")
    with pytest.raises(UserError, match=r"must return .* got int"):
        load_study(str(tmp_path / "other.py"))


def test_records_count_under_the_former_names_of_values():
    """`smoothed_labels` was `entropy_matched` when they were made."""
    _, study = load_study("configs/studies/what_works.py:doses")
    planned = {
        id: changes
        for id, changes in Planner(study).possible().items()
        if changes["method.introspective.source"] == "smoothed_labels"
    }
    found = read_results(epath.Path(ROOT / "results" / "doses"), planned)
    assert len(planned) == len(found) == 9
    sources = {r["config"]["method.introspective.source"] for r in found.values()}
    assert sources == {"entropy_matched"}
