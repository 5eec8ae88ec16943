"""Figures and columns of studies with arms or costs that are unlike the others."""

import math

import pytest
from conftest import ROOT
from etils import epath

from studies.pages import charts, statistics, tables
from studies.pages.collect import collect

RESULTS = ROOT / "results" / "noise"


@pytest.fixture(scope="module")
def collected():
    return collect(str(RESULTS), epath.Path(RESULTS))


@pytest.fixture(scope="module")
def part(collected):
    return statistics.summarise(collected)["settings"][0]


def test_costs_that_nobody_knows_have_no_column_and_no_figure(part, collected):
    """Of runs that shared an accelerator, for example."""
    nobody = {"flops_per_step_ratio": math.nan, "step_seconds_ratio": math.nan}
    unknown = part | {"rows": [row | nobody for row in part["rows"]]}
    assert "| FLOPs of a step |" in tables.markdown(part, collected)
    assert "of a step |" not in tables.markdown(unknown, collected)
    assert "FLOPs were not counted" in tables.costs_note(unknown)
    assert charts.cost(part) is not None
    assert charts.cost(unknown) is None


def differing(part, points):
    """All arms differ by 0.2 points but for the last."""
    rows = []
    for row in part["rows"]:
        mean = (points if row is part["rows"][-1] else 0.2) / 100
        given = {"mean": mean, "low": mean - 0.001, "high": mean + 0.001}
        rows.append(row | {"top1_difference": given})
    rows[0].pop("top1_difference")  # the baseline
    return part | {"rows": rows}


def test_an_arm_that_hardly_trains_hides_no_other(part, collected):
    """It is written at the edge, and the other figures do not make room for it."""
    lost = differing(part, -70)
    axis = charts.differences(lost, "standard").axes[0]
    assert axis.get_xlim()[0] == -10
    assert [text.get_text() for text in axis.texts] == ["-70.0 (-70.1 to -69.9)"]
    for figure in (charts.cost(lost), charts.curves(lost, collected)):
        title = figure.axes[0].get_title()
        assert title == "arms outside, at least in part: 1"


def test_a_gain_is_never_beyond_the_axis(part, collected):
    gained = differing(part, 70)
    axis = charts.differences(gained, "standard").axes[0]
    assert axis.get_xlim()[1] > 70
    assert not axis.texts
    assert not charts.curves(gained, collected).axes[0].get_title()
