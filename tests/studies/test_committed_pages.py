"""The pages in `results/` are what `launch/report.py` makes of the records there."""

import json
import re
import shutil
from decimal import Decimal

import pytest
from conftest import ROOT

from studies.pages.command import report
from studies.pages.index import write_index

RESULTS = sorted(p.parent for p in ROOT.glob("results/*/study.json"))


@pytest.mark.parametrize("folder", RESULTS, ids=lambda path: path.name)
def test_committed_pages_are_those_of_their_records(folder, tmp_path):
    """Nothing on them was typed, and nothing is left of an earlier version."""
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    report(str(copy), str(copy))
    for name in ("README.md", "statistics.json", "table.csv", "table.tex"):
        assert (copy / name).read_text() == (folder / name).read_text(), (
            f"python launch/report.py --workdir={folder.relative_to(ROOT)} --output="
            f"{folder.relative_to(ROOT)} makes it anew"
        )


@pytest.mark.parametrize(
    ("study", "arm", "metric", "scale", "exact", "cell"),
    [
        # The mean of six digits, 1.23050, would be shown as 1.230.
        ("doses", "weight rows 0.1", "nll", 1, "1.2305041146", "1.231 ± 0.017"),
        ("components", "kd, component=permuted", "ece", 100, "11.135037932", "11.14 ±"),
    ],
)
def test_a_cell_is_the_mean_of_the_records_rounded_once(
    study, arm, metric, scale, exact, cell
):
    folder = ROOT / "results" / study
    records = [json.loads(file.read_text()) for file in folder.glob("runs/*.json")]
    values = [
        Decimal(repr(record["summary"]["test"]["last"][metric]))
        for record in records
        if record["phase"] == "final" and record["arm"] == arm
    ]
    assert str(scale * sum(values) / len(values)).startswith(exact)
    (row,) = (
        line
        for line in (folder / "README.md").read_text().splitlines()
        if line.startswith(f"| {arm} |") and "](runs/" in line
    )
    assert f"| {cell}" in row


def test_the_committed_index_is_that_of_the_results(tmp_path):
    committed = (ROOT / "results" / "README.md").read_text()
    # Only what it lists: others may have been made here since.
    for name in re.findall(r"\]\((\w+)/README\.md\)", committed):
        shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    text = write_index(str(tmp_path / "results"))
    assert text == committed, "python launch/report.py --index=results makes it anew"
