"""Calibration of the arms, before and after temperature scaling, beside its floor."""

from collections.abc import Callable
from typing import Any

from studies.comparison import mean_interval, paired_difference
from studies.pages.tables import (
    Columns,
    difference,
    percent,
    plain,
    to_markdown,
    unranked,
)

Row = dict[str, Any]
Part = dict[str, Any]
# Scores of the test split. Records of earlier versions have none of them, and runs
# without a validation split none that is scaled.
_SCORES = (
    *("overconfidence", "ece_floor", "ece_floor_95", "temperature"),
    *("nll_scaled", "ece_scaled", "ece_scaled_floor", "ece_scaled_floor_95"),
)
# Those whose differences are taken.
COMPARED = ("overconfidence", "nll_scaled", "ece_scaled")
_UNKNOWN = "-"
_AT_FLOOR = " (at the floor)"


def of_arm(runs: dict[int, Row]) -> Row:
    """The part of an arm's row that is calibration.

    `{score}_last` of the scores that all its runs have, and in `at_floor` those of
    `ece` and `ece_scaled` that chance explains: the mean over the runs is at most that
    of their `{ece}_floor_95`. A single run of a perfectly calibrated network is there
    with a probability of 95 %, the mean of several runs with a higher one.
    """
    scores = {name: found for name in _SCORES if (found := _values(runs, name))}
    row: Row = {
        f"{name}_last": mean_interval(list(found.values()))
        for name, found in scores.items()
    }
    if scores:
        row["at_floor"] = [
            ece
            for ece in ("ece", "ece_scaled")
            if (limits := scores.get(f"{ece}_floor_95"))
            and sum(_values(runs, ece).values()) <= sum(limits.values())
        ]
    return row


def differences(first: dict[int, Row], second: dict[int, Row]) -> Row:
    """`{score}_difference` of two arms, and in `unranked` the ECEs that are at the
    floor in both: which of the two is less says nothing."""
    row: Row = {}
    for name in COMPARED:
        one, other = _values(first, name), _values(second, name)
        if one and other:
            row[f"{name}_difference"] = paired_difference(one, other)
    floors = [of_arm(runs).get("at_floor", []) for runs in (first, second)]
    if unranked := [ece for ece in floors[0] if ece in floors[1]]:
        row["unranked"] = unranked
    return row


def _values(runs: dict[int, Row], name: str) -> dict[int, float]:
    """Seed -> score at the last step; empty unless all runs have it: a temperature is
    missing where the validation split was too easy to tell one, so that a mean over the
    others would not be that of the arm."""
    found = {s: r["summary"]["test"]["last"].get(name) for s, r in runs.items()}
    return {} if None in found.values() else found


def columns(part: Part) -> Columns:
    """Heading -> cell of a row, for the table of a setting; empty if its runs have no
    scores of calibration but the ECE."""
    found: Columns = {
        "arm": lambda r: r["arm"],
        "conf - acc %": lambda r: _shown(difference, r.get("overconfidence_last")),
        "its difference": lambda r: difference(r.get("overconfidence_difference")),
        "ECE %": lambda r: percent(r["ece_last"]) + _mark(r, "ece"),
        "floor %": lambda r: _mean(r.get("ece_floor_last"), 100, 2),
    }
    if any("temperature_last" in row for row in part["rows"]):
        found |= {
            "T": lambda r: _mean(r.get("temperature_last"), 1, 3),
            "NLL at T": lambda r: _shown(plain, r.get("nll_scaled_last")),
            "difference of NLL at T": lambda r: difference(
                r.get("nll_scaled_difference"), 1, 3
            ),
            "ECE at T %": lambda r: (
                _shown(percent, r.get("ece_scaled_last")) + _mark(r, "ece_scaled")
            ),
            "floor at T %": lambda r: _mean(r.get("ece_scaled_floor_last"), 100, 2),
        }
    return found if any("ece_floor_last" in row for row in part["rows"]) else {}


def section(part: Part, baseline: str) -> list[str]:
    """The tables of a setting and what they mean, as paragraphs of its page; none for
    records of earlier versions."""
    shown = columns(part)
    if not shown:
        return []
    rows = [[cell(row) for cell in shown.values()] for row in part["rows"]]
    text = (
        "*Calibration at the last step, on the test split. conf - acc: mean confidence "
        "minus accuracy, above 0 for a network that is too sure. floor: the ECE that a "
        "perfectly calibrated network of the same confidences would show on so many "
        "images (mean of 1,000 simulations). An ECE is at the floor if at least 5 % of "
        "the simulations are above it (means over the runs); of two that are, none is "
        "called better. That is about 1.4 times the floor where the confidences are "
        "spread out, and up to 2.5 times where nearly all are close to 1."
    )
    if "T" in shown:
        text += (
            " T: the temperature of the least NLL on the validation split, for each "
            "run its own; the columns after it are of the test split at that T. A dash "
            "stands where a run has none, for example because every validation image "
            "is right, so that the NLL falls as T goes to 0."
        )
    parts = [to_markdown(list(shown), rows), f"{text} Differences from `{baseline}`.*"]
    if part["contrasts"]:
        parts.append(_contrasts(part, scaled="T" in shown))
    return parts


def _contrasts(part: Part, *, scaled: bool) -> str:
    compared = {"conf - acc %": ("overconfidence", 100, 2)}
    if scaled:
        compared |= {
            "NLL at T": ("nll_scaled", 1, 3),
            "ECE at T %": ("ece_scaled", 100, 2),
        }
    rows = [
        [f"{c['first']} - {c['second']}"]
        + [
            (difference(c.get(f"{name}_difference"), scale, digits) or _UNKNOWN)
            + unranked(c, name)
            for name, scale, digits in compared.values()
        ]
        for c in part["contrasts"]
    ]
    return to_markdown(["difference of", *compared], rows)


def _shown(form: Callable[[Row], str], estimate: Row | None) -> str:
    return _UNKNOWN if estimate is None else form(estimate)


def _mean(estimate: Row | None, scale: float, digits: int) -> str:
    """Without the interval, of what is no result but its measure."""
    return _shown(lambda e: f"{scale * e['mean']:.{digits}f}", estimate)


def _mark(row: Row, ece: str) -> str:
    return _AT_FLOOR if ece in row.get("at_floor", ()) else ""
