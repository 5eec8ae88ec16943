"""Calibration on the page of a study: means, differences, and what is not ranked."""

import json
import shutil

import numpy as np
import pytest
from conftest import ROOT

from studies.pages import calibration, index, page, statistics, tables
from studies.pages.collect import collect

# A committed study with contrasts, whose records are given scores of calibration.
STUDY = ROOT / "results" / "components"
FULL, OTHERS, UNIFORM, PERMUTED = (
    f"kd, component={name}" for name in ("full", "others", "uniform", "permuted")
)
# ECE, its floor and what 95 % are below, before and after temperature scaling.
FLOOR = (0.010, 0.014)
SCORES = {
    "standard": (0.013, *FLOOR, 0.012, *FLOOR),  # at the floor, before and after
    FULL: (0.012, *FLOOR, 0.030, *FLOOR),  # before
    OTHERS: (0.015, *FLOOR, 0.011, *FLOOR),  # after: 0.015 is more than 0.014
    UNIFORM: (0.200, *FLOOR, 0.040, *FLOOR),
}


def scores_of(arm, seed):
    ece, floor, high, scaled, scaled_floor, scaled_high = SCORES.get(arm, SCORES[FULL])
    noise = 1e-5 * np.sin(9 * seed)
    return {
        "ece": ece + noise,
        "overconfidence": -ece if arm == FULL else ece + noise,
        "ece_floor": floor,
        "ece_floor_95": high,
        "temperature": 1.5 + 0.1 * seed,
        "nll_scaled": 1.0 + scaled + 3 * noise,
        "ece_scaled": scaled + 2 * noise,
        "ece_scaled_floor": scaled_floor,
        "ece_scaled_floor_95": scaled_high,
    }


def reported(folder, change):
    """Rows, contrasts, page, summary and folder of the study with changed scores."""
    folder = shutil.copytree(STUDY, folder / "study")
    for file in folder.glob("runs/*.json"):
        record = json.loads(file.read_text())
        change(record["arm"], record["seed"], record["summary"]["test"]["last"])
        file.write_text(json.dumps(record))
    collected = collect(str(folder), folder)
    summary = statistics.summarise(collected)
    (part,) = summary["settings"]
    rows = {row["arm"]: row for row in part["rows"]}
    contrasts = {(c["first"], c["second"]): c for c in part["contrasts"]}
    return rows, contrasts, page.page(collected, summary, {"": []}), summary, folder


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    def change(arm, seed, scores):
        scores |= scores_of(arm, seed)
        if arm == PERMUTED and seed == 3:  # its validation split told no temperature
            scores |= dict.fromkeys(n for n in scores if "scaled" in n)
            scores["temperature"] = None

    return reported(tmp_path_factory.mktemp("known"), change)


def line(text, start):
    return next(found for found in text.splitlines() if found.startswith(start))


def test_means_and_paired_differences(known):
    rows, contrasts, text, _, _ = known
    seeds = range(5)
    row = rows[UNIFORM]
    for name in ("overconfidence", "temperature", "nll_scaled", "ece_scaled_floor"):
        wanted = np.mean([scores_of(UNIFORM, seed)[name] for seed in seeds])
        assert row[f"{name}_last"]["mean"] == pytest.approx(wanted, rel=1e-12)
    assert row["nll_scaled_difference"]["mean"] == pytest.approx(0.028, rel=1e-9)
    assert row["nll_scaled_difference"]["n"] == 5
    assert row["nll_scaled_p_holm"] < 0.001
    cells = line(text, f"| {UNIFORM} | +20.00 (").split(" | ")
    assert cells[0] == f"| {UNIFORM}"
    assert cells[2].startswith("+18.70 (")  # conf - acc, minus the baseline's 1.3 %
    assert cells[4] == "1.00"
    assert cells[5] == "1.700"
    assert cells[6].startswith("1.040 ")
    assert cells[7] == "+0.028 (+0.028 to +0.028)"
    assert cells[8].startswith("4.00 ")
    assert cells[9] == "1.00 |"
    assert rows[FULL]["overconfidence_last"]["mean"] < 0
    contrast = contrasts[OTHERS, UNIFORM]
    assert contrast["ece_scaled_difference"]["mean"] == pytest.approx(-0.029, rel=1e-9)
    said = (
        f"- `{OTHERS}` against `{UNIFORM}`, both at their T: Its likelihood is better"
    )
    assert f"{said} (NLL at T -0.029" in text


def test_an_arm_with_a_run_without_a_temperature_has_none(known):
    rows, _, text, _, _ = known
    assert "ece_floor_last" in rows[PERMUTED]
    assert "temperature_last" not in rows[PERMUTED]
    assert "nll_scaled_difference" not in rows[PERMUTED]
    assert rows[PERMUTED]["at_floor"] == ["ece"]
    assert line(text, f"| {PERMUTED} | +1.20 (").endswith("| 1.00 | - | - |  | - | - |")


def test_values_at_the_floor_are_not_ranked(known):
    rows, contrasts, text, summary, _ = known
    assert {arm: rows[arm]["at_floor"] for arm in SCORES} == {
        "standard": ["ece", "ece_scaled"],
        FULL: ["ece"],
        OTHERS: ["ece_scaled"],
        UNIFORM: [],
    }
    # Both are there: not ranked, though the interval excludes zero.
    assert rows[FULL]["unranked"] == ["ece"]
    assert rows[FULL]["ece_difference"]["high"] < 0
    sentence = line(text, f"- `{FULL}`")
    assert "Both are at the floor of the ECE (ECE -0.10" in sentence
    assert "Its calibration is" not in sentence
    assert "calibration is worse (ECE at T +1.80" in line(
        text, f"- `{FULL}` against `standard`, both at their T:"
    )
    # One is not: it is worse than what chance explains.
    assert "unranked" not in rows[UNIFORM]
    assert "calibration is worse (ECE +18.70" in line(text, f"- `{UNIFORM}`")
    assert rows[OTHERS]["unranked"] == ["ece_scaled"]
    assert "Both are at the floor of the ECE (ECE at T -0.10" in line(
        text, f"- `{OTHERS}` against `standard`, both at their T:"
    )
    assert contrasts[FULL, PERMUTED]["unranked"] == ["ece"]
    table = calibration.columns(summary["settings"][0])
    assert table["ECE %"](rows[FULL]).endswith(" (at the floor)")
    assert not table["ECE %"](rows[UNIFORM]).endswith(" (at the floor)")


def test_other_tables_have_it(known):
    *_, summary, folder = known
    latex = tables.to_latex(summary, calibration.columns)
    assert latex.count(r"\begin{tabular}") == 2
    assert "(at the floor)" in latex
    header = tables.to_csv(summary).splitlines()[0]
    assert "nll_scaled_difference.low" in header
    json.dumps(statistics.jsonable(statistics.rounded(summary)), allow_nan=False)
    text = index.write_index(str(folder.parent))
    assert line(text, f"| {FULL} (positive").count("(both at the floor)") == 1
    assert "floor" not in line(text, f"| {UNIFORM} |")


def test_without_validation_splits_there_are_no_temperatures(tmp_path):
    def change(arm, seed, scores):
        known = scores_of(arm, seed)
        names = ("overconfidence", "ece_floor", "ece_floor_95")
        scores |= {name: known[name] for name in names}

    rows, _, text, summary, _ = reported(tmp_path, change)
    assert rows["standard"]["at_floor"] == []  # the ECE of the record is 3.7 %
    assert list(calibration.columns(summary["settings"][0]))[-1] == "floor %"
    assert "at T" not in text
    assert "at their T" not in text


def test_records_of_earlier_versions_have_no_such_table(tmp_path):
    rows, _, text, summary, _ = reported(tmp_path, lambda *_: None)
    assert calibration.columns(summary["settings"][0]) == {}
    assert not any("at_floor" in row for row in rows.values())
    assert "floor" not in text
