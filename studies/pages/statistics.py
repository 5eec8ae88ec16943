"""The numbers of a study: every one that its tables and its page show."""

import math
import statistics
from typing import Any

import numpy as np

from studies.comparison import (
    holm,
    mean_interval,
    paired_difference,
    seeds_needed,
    smallest_detectable,
)
from studies.pages.collect import Collected

# Of the test split, at the last step and at the best on validation.
METRICS = ("top1", "nll", "ece")
# The difference in top-1 for which the number of seeds is given: half a point.
OF_INTEREST = 0.005
# Times of a step that differ by no more than this factor are of the same machine.
ALIKE = 1.25
SIGNIFICANT = 0.05
Row = dict[str, Any]


def summarise(collected: Collected) -> dict[str, Any]:
    """Setting by setting: rows of arms, contrasts, and what can be told from them.

    All accuracies and errors are fractions; differences are paired by seed, of the last
    step; p-values are corrected by Holm over all differences of a setting, metric by
    metric. A setting is informative if a positive control is better; what it is for is
    known beforehand, so it is corrected for the number of controls alone.

    Nothing is rounded here: tables, figures and files each round these values once.
    """
    study = collected.study
    settings = [_setting(collected, name) for name in study["settings"]]
    return {
        "name": study["name"],
        "question": study["question"],
        "settings": [s for s in settings if s["rows"]],
        "tuning": _tuning(collected),
        "not_run": _not_run(collected),
        "failed": collected.failed,
    }


def _setting(collected: Collected, setting: str) -> dict[str, Any]:
    study = collected.study
    runs = {arm: collected.finals(setting, arm) for arm in study["arms"]}
    runs = {arm: found for arm, found in runs.items() if found}
    baseline = runs.get(study["baseline"], {})
    rows = [_row(arm, found, baseline, study) for arm, found in runs.items()]
    contrasts = [
        {
            "first": first,
            "second": second,
            **{
                f"{metric}_difference": paired_difference(
                    _values(runs[first], metric), _values(runs[second], metric)
                )
                for metric in METRICS
            },
        }
        for first, second in study["contrasts"]
        if first in runs and second in runs
    ]
    compared = [r for r in rows if r["arm"] != study["baseline"]] + contrasts
    for metric in METRICS:
        corrected = holm([row[f"{metric}_difference"]["p"] for row in compared])
        for row, p in zip(compared, corrected, strict=True):
            row[f"{metric}_p_holm"] = float(p)
    controls = [row for row in rows if row["control"]]
    corrected = holm([row["top1_difference"]["p"] for row in controls])
    helping = [
        row["arm"]
        for row, p in zip(controls, corrected, strict=True)
        if row["top1_difference"]["mean"] > 0 and p < SIGNIFICANT
    ]
    return {
        "setting": setting,
        "rows": rows,
        "contrasts": contrasts,
        "informative": bool(helping),
        "helping_controls": helping,
        "detectable": _detectable(compared),
    }


def _row(
    arm: str, runs: dict[int, Row], baseline: dict[int, Row], study: dict[str, Any]
) -> Row:
    row: Row = {
        "arm": arm,
        "control": arm in study["controls"],
        "seeds": sorted(runs),
        "ids": {seed: record["id"] for seed, record in sorted(runs.items())},
    }
    for metric in METRICS:
        for which in ("last", "best"):
            values = _values(runs, metric, which)
            row[f"{metric}_{which}"] = mean_interval(list(values.values()))
        if arm != study["baseline"]:
            row[f"{metric}_difference"] = paired_difference(
                _values(runs, metric), _values(baseline, metric)
            )
    for name in ("loss", "accuracy", "target_entropy"):
        found = [_last(record, name) for record in runs.values()]
        known = [value for value in found if value is not None]
        row[f"train_{name}"] = statistics.mean(known) if known else None
    row |= _cost(runs, baseline)
    return row


def _cost(runs: dict[int, Row], baseline: dict[int, Row]) -> Row:
    """Of a step: FLOPs and time, as multiples of the baseline's.

    Times are of the fastest run of each, and only where those of one arm are alike:
    runs that share a machine take what the others leave them.
    """

    def costs(found: dict[int, Row], name: str) -> list[float]:
        given = [record["summary"]["cost"].get(name) for record in found.values()]
        return [cost for cost in given if cost is not None]

    ratios = {}
    for name in ("flops_per_step", "step_seconds"):
        own, base = costs(runs, name), costs(baseline, name)
        alike = all(c and max(c) <= ALIKE * min(c) for c in (own, base))
        ratios[f"{name}_ratio"] = min(own) / min(base) if alike else math.nan
    return ratios


def _detectable(compared: list[Row]) -> dict[str, Any] | None:
    """From the median of the paired standard deviations."""
    found = [row["top1_difference"] for row in compared]
    found = [d for d in found if d["n"] >= 2 and d["sd"] > 0]
    if not found:
        return None
    sd = statistics.median(d["sd"] for d in found)
    n = round(statistics.median(d["n"] for d in found))
    return {
        "paired_sd": sd,
        "seeds": n,
        "smallest_difference": smallest_detectable(sd, n),
        "of_interest": OF_INTEREST,
        "seeds_needed": seeds_needed(OF_INTEREST, sd),
    }


def _tuning(collected: Collected) -> list[Row]:
    """What was tried for each arm, and what it scored on validation."""
    study = collected.study
    chosen = {(c["setting"], c["arm"]): c["trial"] for c in study["chosen"]}
    groups: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for record in collected.records.values():
        if record["phase"] == "trial":
            group = groups.setdefault((record["setting"], record["arm"]), {})
            group.setdefault(record["trial"], []).append(record["summary"])
    return [
        {
            "setting": setting,
            "arm": arm,
            "chosen": chosen.get((setting, arm)),
            "seconds": sum(s["seconds"] for t in trials.values() for s in t),
            "trials": [
                {
                    "trial": name,
                    "seeds": len(found),
                    "validation_top1": float(
                        np.mean([s["validation"]["last"]["top1"] for s in found])
                    ),
                }
                for name, found in trials.items()
            ],
        }
        for (setting, arm), trials in groups.items()
    ]


def _not_run(collected: Collected) -> list[str]:
    """Runs that are still to be done, and how many for each arm."""
    study = collected.study
    missing = []
    for setting in study["settings"]:
        for arm in study["arms"]:
            there = collected.finals(setting, arm)
            seeds = [s for s in study["seeds"] if s not in there]
            if seeds:
                where = f"{setting}: " if setting else ""
                missing.append(f"{where}{arm}, seeds {', '.join(map(str, seeds))}")
    return missing


def _values(runs: dict[int, Row], metric: str, which: str = "last") -> dict[int, float]:
    return {seed: r["summary"]["test"][which][metric] for seed, r in runs.items()}


def _last(record: Row, name: str) -> float | None:
    train = record["curves"]["train"]
    return train[-1].get(name) if train else None


def rounded(value: Any) -> Any:
    """Six significant digits, for the files that other programs read.

    These digits are the same in all versions of NumPy and SciPy. Do not format a table
    from them: a value rounded twice may end in another digit (1.230504 -> 1.2305 ->
    1.230).
    """
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def jsonable(value: Any) -> Any:
    """The same with None for what is not a number, which JSON does not know."""
    if isinstance(value, dict):
        return {name: jsonable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [jsonable(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
