"""From the records of a study to its page: every number is that of the runs."""

import csv
import json
import math
import re
import shlex
import shutil

import numpy as np
import pytest
from conftest import ROOT

from introspect_jax.config import config_hash, default_config, fields
from introspect_jax.errors import UserError
from studies import Study, chain, point, sweep
from studies.design import base_config, with_fields
from studies.pages import page, statistics, tables
from studies.pages.collect import collect, without_folders
from studies.pages.command import report
from studies.pages.index import write_index
from studies.plan import Planner
from studies.records import Records

ARMS = chain(
    point("standard", {"method.name": "standard"}),
    point("helps", {"method.name": "kd", "method.teacher_seed": 7}),
    point("same", {"method.name": "label_smoothing"}),
    point("worse", {"method.name": "introspective"}),
)
TOP1 = {"standard": 0.50, "helps": 0.60, "same": 0.50, "worse": 0.45}


@pytest.fixture(scope="module")
def generator():
    return np.random.RandomState(0)


def write_run(records, run, top1, generator):
    """A finished run, as `run.run` leaves it."""
    folder = records.folder(run.id)
    folder.mkdir(parents=True, exist_ok=True)
    scores = {"top1": top1, "top5": 0.9, "nll": 2 * (1 - top1), "ece": 0.1}
    teacher = None
    if run.teacher:
        path = str(records.folder(run.teacher))
        teacher = {"workdir": path, "state_sha256": "0"}
    summary = {
        "seed": run.seed,
        "test": {"last": scores, "best": scores} if run.config.evaluate_test else None,
        "validation": {"last": scores, "best": scores},
        "seconds": 10.0,
        "examples": {"train": 1293, "validation": 144, "test": 360},
        "cost": {
            "step_seconds": 0.01 * (1 + (run.arm == "worse")),
            "flops_per_step": 1e6 * (1 + (run.arm == "worse")),
        },
        "teacher": teacher,
        "versions": {"jax": "0.10.2"},
        "device": {
            "platform": "cpu",
            "kind": "cpu",
            "count": 1,
            "host_cpus": 2,
            "cpus_used": 1,
        },
        "date": "2026-11-24",
    }
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.json").write_text(json.dumps(run.config.to_dict()))
    lines = [
        {"step": s, "split": "train", "loss": 1 / s, "accuracy": 0.5}
        for s in range(10, 310, 10)
    ]
    lines += [{"step": s, "split": "validation", **scores} for s in (100, 200, 300)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))


@pytest.fixture(scope="module")
def study(tmp_path_factory, generator):
    """`(folder, plan)`: all but the last seed of one arm."""
    path = tmp_path_factory.mktemp("study")
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.chdir(ROOT)  # the command of a record names the config from there
    made = Study(
        question="Does it help?",
        config="configs/digits.py",
        fields={"total_steps": 300},
        arms=ARMS,
        seeds=range(4),
        baseline="standard",
        controls=["helps"],
        contrasts=[("helps", "worse")],
        trials={"same": sweep("method.label_smoothing.epsilon", [0.05, 0.1])},
        tuning_seeds=[100],
        about="A study of no runs.",
    )
    planner = Planner(made)
    records = Records(str(path), "small", "digits")
    for run in planner.plan({}).runs:
        if run.phase == "trial":
            write_run(
                records, run, 0.5 + run.config.method.label_smoothing.epsilon, generator
            )
    plan = planner.plan(records.summaries())
    for run in plan.runs:
        if (run.arm, run.seed, run.phase) == ("worse", 3, "final"):
            records.write_failure(run, "no luck")
        elif run.phase != "trial":
            noise = 0.02 * np.sin(9 * run.seed) + 0.002 * generator.normal()
            write_run(records, run, TOP1[run.arm] + noise, generator)
    records.write_study(made, planner, planner.plan(records.summaries()))
    monkeypatch.undo()
    return path, plan


@pytest.fixture(scope="module")
def written(study, tmp_path_factory):
    output = tmp_path_factory.mktemp("results")
    return output, report(str(study[0]), str(output))


def test_files(written):
    output, _ = written
    names = {p.name for p in output.iterdir()}
    assert names == {
        "README.md",
        "table.csv",
        "table.tex",
        "study.json",
        "statistics.json",
        "differences.png",
        "cost.png",
        "curves.png",
        "runs",
        "failed",
    }
    assert len(list((output / "runs").iterdir())) == 2 + 1 + 15


def test_the_same_again(study, written, tmp_path):
    output, _ = written
    report(str(study[0]), str(tmp_path))
    for file in output.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / file.relative_to(output)).read_bytes()


def test_results_count_where_the_runs_are_gone(study, written, tmp_path):
    """They may have been done on another machine, or in another session."""
    output, _ = written
    (tmp_path / "study.json").write_text((output / "study.json").read_text())
    before = {p.name: p.read_bytes() for p in output.rglob("*.*")}
    report(str(tmp_path), str(output))
    assert {p.name: p.read_bytes() for p in output.rglob("*.*")} == before


def test_what_failed_is_kept_until_it_is_finished(written, tmp_path):
    """In the results too, from which a page can be written again."""
    results = tmp_path / "results"
    shutil.copytree(written[0], results)
    (still,) = (results / "failed").iterdir()
    finished = json.loads(next((results / "runs").glob("helps-seed-0-*")).read_text())
    entry = json.loads(still.read_text()) | {"id": finished["id"], "message": "once"}
    once = results / "failed" / f"{finished['id']}.json"
    once.write_text(json.dumps(entry))
    report(str(results), str(results))
    assert still.exists()
    assert not once.exists()
    text = (results / "README.md").read_text()
    assert "no luck" in text
    assert "once" not in text


def test_results_of_other_defaults_do_not_count(study, written, tmp_path, caplog):
    """Though their ids are those of runs of the study."""
    results, folder = tmp_path / "results", tmp_path / "study"
    shutil.copytree(written[0], results)
    folder.mkdir()
    shutil.copy(written[0] / "study.json", folder)
    (file,) = (results / "runs").glob("helps-seed-0-*")
    record = json.loads(file.read_text())
    record["config"]["optimizer.warmup"] = 0.5
    file.write_text(json.dumps(record))
    summary = report(str(folder), str(results))
    assert "optimizer.warmup=0.5, the study 0.05" in caplog.text
    (row,) = (r for r in summary["settings"][0]["rows"] if r["arm"] == "helps")
    assert row["seeds"] == [1, 2, 3]
    assert "- helps, seeds 0" in (results / "README.md").read_text()


def test_what_is_said(written):
    text = (written[0] / "README.md").read_text()
    assert "# Does it help?" in text
    assert "**Positive control: helps +1" in text
    assert "`helps` helps, so the setting can show" in text
    assert "`helps` is better than `standard`" in text
    assert "`same`: no measurable difference from `standard`" in text
    assert "`worse` is worse than `standard`" in text
    assert "`helps` is better than `worse`" in text
    assert "epsilon=0.1 (chosen)" in text
    assert "- worse, seeds 3" in text
    assert "- worse seed 3 failed: no luck" in text
    assert "1 of 2 CPU cores; JAX 0.10.2; 2026-11-24." in text
    for link in re.findall(r"\]\((\S+?)\)", text):
        assert (written[0] / link).exists(), link


def test_every_number_of_the_page_is_in_a_file(written):
    output, summary = written
    text = (output / "README.md").read_text()
    row = next(r for r in summary["settings"][0]["rows"] if r["arm"] == "worse")
    rows = list(csv.DictReader((output / "table.csv").open()))
    same = next(r for r in rows if r["arm"] == "worse")
    assert same["top1_last.mean"] == f"{row['top1_last']['mean']:.6g}"
    assert same["top1_difference.low"] == f"{row['top1_difference']['low']:.6g}"
    assert tables.percent(row["top1_last"]) in text
    assert tables.difference(row["top1_difference"]) in text
    assert r"\pm" in (output / "table.tex").read_text()
    stored = json.loads((output / "statistics.json").read_text())
    last = statistics.rounded(row["top1_last"])
    assert stored["settings"][0]["rows"][3]["top1_last"] == last
    assert "NaN" not in (output / "statistics.json").read_text()
    assert "2.00x" in text


def test_statistics_of_an_arm_by_hand(study, written):
    collected = collect(str(study[0]), written[0])
    row = next(r for r in written[1]["settings"][0]["rows"] if r["arm"] == "helps")
    tops = {
        arm: [r["summary"]["test"]["last"]["top1"] for r in runs.values()]
        for arm in ("helps", "standard")
        for runs in [collected.finals("", arm)]
    }
    # Of more digits than any table shows.
    wanted = np.mean(tops["helps"])
    assert row["top1_last"]["mean"] == pytest.approx(wanted, rel=1e-12)
    wanted = np.mean(np.subtract(tops["helps"], tops["standard"]))
    assert row["top1_difference"]["mean"] == pytest.approx(wanted, rel=1e-12)
    assert row["top1_difference"]["n"] == 4
    # Paired: the seeds' own ups and downs are gone.
    assert row["top1_difference"]["sd"] < 0.3 * row["top1_last"]["sd"]
    assert 0 < row["top1_p_holm"] < 0.001


def test_a_record_is_enough_to_run_it_again(study, written, monkeypatch):
    """Its command gives its config, and no folder of this machine is in it."""
    monkeypatch.chdir(ROOT)
    for file in (written[0] / "runs").iterdir():
        text = file.read_text()
        assert str(study[0]) not in text
        record = json.loads(text)
        words = shlex.split(record["command"])
        assert words[:2] == ["python", "launch/main.py"]
        changes = {}
        known = fields(default_config())
        for word in words[3:]:
            name, value = word.removeprefix("--config.").split("=", 1)
            kind = type(known[name])
            changes[name] = value == "True" if kind is bool else kind(value)
        path = words[2].removeprefix("--config=")
        plain = base_config(
            Study(question="", config=path, arms=ARMS, seeds=[0], baseline="same")
        )[1]
        config = with_fields(plain, changes)
        assert config_hash(config) == record["id"]
        if record["phase"] == "final" and record["arm"] == "helps":
            teacher = record["summary"]["teacher"]["id"]
            assert list((written[0] / "runs").glob(f"teacher-*-{teacher}.json"))


def test_without_a_control_nothing_is_claimed(study, written, tmp_path):
    collected = collect(str(study[0]), written[0])
    collected.study["controls"] = ["same"]
    found = statistics.summarise(collected)["settings"][0]
    assert not found["informative"]
    assert "uninformative" in page.verdict(found)


def test_entropies_of_soft_targets_are_on_the_page():
    arms = {"standard": 0.0, "unknown": None, "gradient": 1.95812}
    rows = [{"arm": a, "train_target_entropy": e} for a, e in arms.items()]
    assert page.target_entropies({"rows": rows}).endswith("covers: `gradient` 1.958.")
    assert page.target_entropies({"rows": rows[:2]}) == ""


def test_what_one_run_cannot_tell():
    one = {"mean": 0.5, "sd": math.nan, "low": math.nan, "high": math.nan, "n": 1}
    assert tables.percent(one) == "50.00"
    assert tables.difference(one) == "+50.00"
    assert tables.p_value(math.nan) == ""
    assert tables.p_value(0.0001) == "< 0.001"
    assert tables.ratio(math.nan) == ""


def test_results_of_others_are_not_touched(study, written, tmp_path):
    stored = json.loads((written[0] / "statistics.json").read_text())
    (tmp_path / "statistics.json").write_text(json.dumps(stored | {"name": "other"}))
    with pytest.raises(UserError, match="has results of the study 'other'"):
        report(str(study[0]), str(tmp_path))
    (tmp_path / "statistics.json").unlink()
    (tmp_path / "runs").mkdir()
    for file in (written[0] / "runs").iterdir():
        text = file.read_text().replace('"platform": "cpu"', '"platform": "gpu"')
        (tmp_path / "runs" / file.name).write_text(text)
    with pytest.raises(UserError, match="results of a gpu, and these are of a cpu"):
        report(str(study[0]), str(tmp_path))


def test_records_between_the_regular_ones_do_not_count(study, written, tmp_path):
    """A run that was stopped on the way has one of fewer steps."""
    path = study[0]
    lines = next(path.glob("runs/*/metrics.jsonl"))
    before = lines.read_text()
    lines.write_text(
        before + '\n{"step": 173, "split": "train", "loss": 9.0, "accuracy": 0.0}'
    )
    found = collect(str(path), tmp_path)
    lines.write_text(before)
    curves = found.records[lines.parent.name[-8:]]["curves"]
    assert 173 not in [record["step"] for record in curves["train"]]


def test_times_are_told_only_where_runs_are_alike():
    def runs(*seconds):
        costs = [{"flops_per_step": 3.0, "step_seconds": s} for s in seconds]
        return {seed: {"summary": {"cost": c}} for seed, c in enumerate(costs)}

    calm = statistics._cost(runs(2.0, 2.4), runs(1.0, 1.2))
    assert calm == {"flops_per_step_ratio": 1.0, "step_seconds_ratio": 2.0}
    for own, base in (((2.0, 2.6), (1.0, 1.2)), ((2.0, 2.4), (1.0, 1.3))):
        shared = statistics._cost(runs(*own), runs(*base))
        assert math.isnan(shared["step_seconds_ratio"])
        assert shared["flops_per_step_ratio"] == 1.0


def test_not_a_study(tmp_path):
    with pytest.raises(UserError, match=r"has no study\.json"):
        report(str(tmp_path), str(tmp_path / "out"))


def test_index_of_all_studies(written, tmp_path):
    (tmp_path / "one").symlink_to(written[0])
    text = write_index(str(tmp_path))
    assert (tmp_path / "README.md").read_text() == text
    assert "[Does it help?](one/README.md)" in text
    assert "informative; 1 of 2 CPU cores; 2026-11-24." in text
    row = next(r for r in written[1]["settings"][0]["rows"] if r["arm"] == "worse")
    assert tables.difference(row["top1_difference"]) in text
    with pytest.raises(UserError, match="has no results"):
        write_index(str(tmp_path / "nowhere"))


def test_no_local_folder_of_any_teacher_is_in_a_record():
    """A teacher may have a teacher."""
    first = {"workdir": "/home/me/fast-11111111", "seconds": 1.0}
    second = {"workdir": "/home/me/fast-22222222", "seconds": 2.0, "teacher": first}
    assert without_folders(second) == {
        "id": "22222222",
        "seconds": 2.0,
        "teacher": {"id": "11111111", "seconds": 1.0},
    }
    assert without_folders(None) is None
