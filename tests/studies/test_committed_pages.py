"""The pages in `results/` are what `launch/report.py` makes of the records there."""

import re
import shutil

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


def test_the_committed_index_is_that_of_the_results(tmp_path):
    committed = (ROOT / "results" / "README.md").read_text()
    # Only what it lists: others may have been made here since.
    for name in re.findall(r"\]\((\w+)/README\.md\)", committed):
        shutil.copytree(ROOT / "results" / name, tmp_path / "results" / name)
    text = write_index(str(tmp_path / "results"))
    assert text == committed, "python launch/report.py --index=results makes it anew"
