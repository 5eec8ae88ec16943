"""What is missing is done, once; failures and time limits cost nothing else."""

import json
import os
import signal
import subprocess
import sys
import time

import fake_worker
import pytest
from conftest import ROOT

from introspect_jax.config import fields
from introspect_jax.errors import UserError
from studies import Study, chain, command, point, runner, sweep
from studies.records import Records
from studies.runner import Runner

STANDARD = point("standard", {"method.name": "standard"})
FAILS_ONCE = point("fails once", {"method.name": "label_smoothing"})
DIES = point("dies", {"method.name": "confidence_penalty"})
LASTS = point("lasts", {"method.name": "complement_entropy"})
TAUGHT = point("taught", {"method.name": "kd"})


@pytest.fixture(autouse=True)
def fake_workers(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(runner, "work", fake_worker.work)


def make(*arms, seeds=(0, 1), **changes):
    return Study(
        question="?",
        config="configs/digits.py",
        arms=chain(*arms),
        seeds=seeds,
        baseline=arms[0][0].name,
        **changes,
    )


def start(study, path, **options):
    return Runner(study, Records(str(path), "small", "digits"), **options)


def summaries(path):
    found = path.glob("runs/*/summary.json")
    return {p.parent.name: json.loads(p.read_text()) for p in found}


def test_all_is_done_once(tmp_path, capsys):
    study = make(STANDARD, TAUGHT)
    assert start(study, tmp_path).run() == {}
    found = summaries(tmp_path)
    assert len(found) == 5  # a teacher among them
    shown = capsys.readouterr().out
    assert "5/5 runs" in shown
    assert "standard seed 1: test top-1 50.10 %" in shown
    assert shown.index("teacher of taught") < shown.index("runs taught seed 0")
    again = start(study, tmp_path)
    assert again.missing() == 0
    assert again.run() == {}
    assert summaries(tmp_path) == found
    stored = json.loads((tmp_path / "study.json").read_text())
    assert [r["phase"] for r in stored["runs"]] == ["teacher"] + ["final"] * 4
    assert stored["final"][""]["standard"].keys() == {"0", "1"}


def test_more_seeds_do_only_what_is_new(tmp_path):
    start(make(STANDARD), tmp_path).run()
    before = summaries(tmp_path)
    start(make(STANDARD, seeds=range(4)), tmp_path).run()
    after = summaries(tmp_path)
    assert len(after) == 4
    assert before.items() <= after.items()


def test_workers_share_the_cores(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core")
    start(make(STANDARD, seeds=range(8)), tmp_path, workers=2).run()
    shares = {tuple(s["cpus"]) for s in summaries(tmp_path).values()}
    flat = [c for share in shares for c in share]
    assert sorted(flat) == sorted(set(flat))


def test_a_failure_is_recorded_and_tried_again(tmp_path, capsys):
    study = make(STANDARD, FAILS_ONCE)
    failed = start(study, tmp_path).run()
    assert set(failed.values()) == {"no luck"}
    assert len(failed) == 2
    assert len(summaries(tmp_path)) == 2
    assert "fails once seed 0 failed: no luck" in capsys.readouterr().out
    assert Records(str(tmp_path), "small", "digits").failures() == failed
    assert start(study, tmp_path).run() == {}
    assert Records(str(tmp_path), "small", "digits").failures() == {}
    assert len(summaries(tmp_path)) == 4


def test_a_process_that_dies_takes_nothing_with_it(tmp_path):
    failed = start(make(DIES, STANDARD), tmp_path).run()
    assert set(failed.values()) == {"its process ended with code 3"}
    assert len(failed) == 2
    assert len(summaries(tmp_path)) == 2


def test_the_time_budget_is_kept(tmp_path, capsys):
    began = time.monotonic()
    found = start(make(STANDARD, LASTS), tmp_path, time_budget=12.0)
    assert found.run() == {}
    assert time.monotonic() - began < 12.0
    assert "lasts seed 0: saved; it will be continued" in capsys.readouterr().out
    assert found.missing() == 3  # standard seed 1 comes after what did not end


def test_a_folder_is_one_process_alone(tmp_path):
    records = Records(str(tmp_path), "small", "digits")
    with records.lock(), pytest.raises(UserError, match="is writing to"):
        start(make(STANDARD), tmp_path).run()


def write_results(folder, run, **changes):
    """The record of a run in a folder of results, its config as `changes` say."""
    (folder / "runs").mkdir(parents=True, exist_ok=True)
    record = {
        "id": run.id,
        "phase": run.phase,
        "config": fields(run.config) | changes,
        "summary": {"validation": None, "seconds": 1.0},
    }
    (folder / "runs" / f"{run.id}.json").write_text(json.dumps(record))


def test_what_results_have_is_not_done_again(tmp_path, caplog):
    study = make(STANDARD)
    run = runner.Planner(study).plan({}).runs[0]
    # Of a version that had another field: what both have is the same.
    write_results(tmp_path / "results", run, was="before")
    done = [str(tmp_path / "results")]
    assert start(study, tmp_path / "study", done=done).run() == {}
    assert len(summaries(tmp_path / "study")) == 1
    assert not caplog.records


def test_results_of_other_defaults_are_done_again(tmp_path, caplog):
    study = make(STANDARD)
    for run in runner.Planner(study).plan({}).runs:
        write_results(tmp_path / "results", run, **{"data.mean": [0.1]})
    done = [str(tmp_path / "results")]
    found = start(study, tmp_path / "study", done=done)
    (warning,) = caplog.messages
    assert "2 records in" in warning
    assert "data.mean=[0.1], the study [0.305]" in warning
    assert found.run() == {}
    assert len(summaries(tmp_path / "study")) == 2


def test_a_teacher_known_from_results_alone_is_trained_again(tmp_path):
    """Its network is not in them."""
    study = make(STANDARD, TAUGHT)
    teacher = runner.Planner(study).plan({}).runs[0]
    assert teacher.phase == "teacher"
    write_results(tmp_path / "results", teacher)
    found = start(study, tmp_path / "study", done=[str(tmp_path / "results")])
    assert found.run() == {}
    assert found.missing() == 0
    assert len(summaries(tmp_path / "study")) == 5


def test_folders_of_other_studies_and_no_results(tmp_path):
    start(make(STANDARD), tmp_path).run()
    with pytest.raises(UserError, match="of the study 'small', not 'other'"):
        Records(str(tmp_path), "other", "digits")
    with pytest.raises(UserError, match=r"--done .* has no runs"):
        start(make(STANDARD), tmp_path / "new", done=[str(tmp_path / "none")])
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match=r"study\.json' is damaged"):
        Records(str(tmp_path), "small", "digits")


def test_a_damaged_summary_is_run_again(tmp_path):
    start(make(STANDARD), tmp_path).run()
    before = summaries(tmp_path)
    next(tmp_path.glob("runs/*/summary.json")).write_text('{"seconds": ')
    found = start(make(STANDARD), tmp_path)
    assert found.missing() == 1
    assert found.run() == {}
    assert summaries(tmp_path).keys() == before.keys()


def test_several_workers_on_an_accelerator_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "work", fake_worker.refuse)
    with pytest.raises(UserError, match="use --workers=1"):
        start(make(STANDARD), tmp_path).run()
    assert not summaries(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_saves(tmp_path, number):
    """As a terminal or a scheduler sends it, also while a worker starts."""
    program = (
        "import fake_worker, test_runner\n"
        "from studies import runner\n"
        "runner.work = fake_worker.work\n"
        "send = runner.Runner._send\n"
        "def told(*given):\n"
        "    send(*given)\n"
        "    print('a run was given away', flush=True)\n"
        "runner.Runner._send = told\n"
        "if __name__ == '__main__':\n"
        "    study = test_runner.make(test_runner.LASTS)\n"
        f"    failed = test_runner.start(study, {str(tmp_path)!r}).run()\n"
        "    assert failed == {}, failed\n"
    )
    file = tmp_path / "program.py"
    file.write_text(program)
    paths = os.pathsep.join(
        [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests/studies")]
    )
    process = subprocess.Popen(
        [sys.executable, str(file)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": paths},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # Before that there would be nothing to save; the worker is only starting.
    while "a run was given away" not in (line := process.stdout.readline()):
        assert line, "it ended"
    os.killpg(process.pid, number)
    shown, _ = process.communicate(timeout=60)
    assert process.returncode == 0, shown
    assert "saved; it will be continued" in shown


def test_tuning_is_followed_by_the_final_runs(tmp_path):
    epsilons = sweep("method.introspective.weight", [0.1, 0.2])
    study = make(
        STANDARD,
        point("tuned", {"method.name": "introspective"}),
        trials={"tuned": epsilons},
        tuning_seeds=(100,),
    )
    assert start(study, tmp_path).run() == {}
    stored = json.loads((tmp_path / "study.json").read_text())
    assert stored["waiting"] == 0
    assert stored["chosen"] == [{"setting": "", "arm": "tuned", "trial": "weight=0.1"}]
    assert len(summaries(tmp_path)) == 6


def test_dry_run_counts_and_estimates(tmp_path, capsys):
    file = tmp_path / "small.py"
    file.write_text(
        "from studies import Study, chain, point\n"
        "def get_study(arg=None):\n"
        "    arms = chain(point('a', {'method.name': 'standard'}), "
        "point('b', {'method.name': 'kd'}))\n"
        "    return Study(question='?', config='configs/digits.py', arms=arms,\n"
        "                 seeds=range(10), baseline='a')\n"
    )
    hours = command.dry_run(str(file), str(tmp_path / "study"))
    assert hours == pytest.approx(21 * 36 / 3600)
    shown = capsys.readouterr().out
    assert "21 runs are still to be done: 0:12:36 h" in shown
    assert not summaries(tmp_path / "study")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"workers": 0}, r"--workers must lie in 1\.\."),
        ({"workers": 10_000}, "got 10000"),
        ({"time_budget": 0.0}, "--time_budget must be above 0"),
    ],
)
def test_numbers_that_make_no_sense(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        start(make(STANDARD), tmp_path, **options)
