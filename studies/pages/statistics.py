"""The statistics of a study, from which its tables and its page are made."""

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
from studies.pages import calibration
from studies.pages.collect import Collected

# Of the test split, at the last step and at the best on validation.
METRICS = ("top1", "nll", "ece")
# The difference in top-1 for which the number of seeds is given: half a point.
OF_INTEREST = 0.005
# Times of a step that differ by more than this factor were disturbed by other programs.
ALIKE = 1.25
SIGNIFICANT = 0.05
Row = dict[str, Any]


def summarise(collected: Collected) -> dict[str, Any]:
    """For each setting: rows of arms, contrasts, and whether it is informative.

    All accuracies and errors are fractions. Differences are those of the last step,
    paired by seed. p-values are corrected by Holm over all differences of a setting,
    for each metric on its own. A setting is informative if a positive control is better
    than the baseline. This question is asked beforehand, so its p-values are corrected
    for the number of controls alone.

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
    runs = {arm: of_arm for arm, of_arm in runs.items() if of_arm}
    baseline = runs.get(study["baseline"], {})
    rows = [_row(arm, of_arm, baseline, study) for arm, of_arm in runs.items()]
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
            **calibration.differences(runs[first], runs[second]),
        }
        for first, second in study["contrasts"]
        if first in runs and second in runs
    ]
    compared = [r for r in rows if r["arm"] != study["baseline"]] + contrasts
    for metric in (*METRICS, *calibration.COMPARED):
        tested = [row for row in compared if f"{metric}_difference" in row]
        corrected = holm([row[f"{metric}_difference"]["p"] for row in tested])
        for row, p in zip(tested, corrected, strict=True):
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
            scores = _values(runs, metric, which)
            row[f"{metric}_{which}"] = mean_interval(list(scores.values()))
        if arm != study["baseline"]:
            row[f"{metric}_difference"] = paired_difference(
                _values(runs, metric), _values(baseline, metric)
            )
    for name in ("loss", "accuracy", "target_entropy"):
        values = [_last(record, name) for record in runs.values()]
        logged = [value for value in values if value is not None]
        row[f"train_{name}"] = statistics.mean(logged) if logged else None
    row |= calibration.of_arm(runs)
    if arm != study["baseline"]:
        row |= calibration.differences(runs, baseline)
    row |= _cost(runs, baseline)
    return row


def _cost(runs: dict[int, Row], baseline: dict[int, Row]) -> Row:
    """FLOPs and time of a step, as multiples of the baseline's.

    Times are those of the fastest runs. They are NaN where the times of an arm differ
    much, because its runs shared their machine with other programs.
    """

    def costs(records: dict[int, Row], name: str) -> list[float]:
        measured = [record["summary"]["cost"].get(name) for record in records.values()]
        return [cost for cost in measured if cost is not None]

    ratios = {}
    for name in ("flops_per_step", "step_seconds"):
        own, base = costs(runs, name), costs(baseline, name)
        alike = all(c and max(c) <= ALIKE * min(c) for c in (own, base))
        if name == "step_seconds" and any(
            record["summary"].get("device", {}).get("shared")
            for record in (*runs.values(), *baseline.values())
        ):
            alike = False  # what else ran then is not known
        ratios[f"{name}_ratio"] = min(own) / min(base) if alike else math.nan
    return ratios


def _detectable(compared: list[Row]) -> dict[str, Any] | None:
    """Detectable difference and seeds, from the median paired standard deviation."""
    differences = [row["top1_difference"] for row in compared]
    differences = [d for d in differences if d["n"] >= 2 and d["sd"] > 0]
    if not differences:
        return None
    sd = statistics.median(d["sd"] for d in differences)
    n = round(statistics.median(d["n"] for d in differences))
    return {
        "paired_sd": sd,
        "seeds": n,
        "smallest_difference": smallest_detectable(sd, n),
        "of_interest": OF_INTEREST,
        "seeds_needed": seeds_needed(OF_INTEREST, sd),
    }


def _tuning(collected: Collected) -> list[Row]:
    """The trials of each arm with their scores on the validation split."""
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
                    "seeds": len(summaries),
                    "validation_top1": float(
                        np.mean([s["validation"]["last"]["top1"] for s in summaries])
                    ),
                }
                for name, summaries in trials.items()
            ],
        }
        for (setting, arm), trials in groups.items()
    ]


def _not_run(collected: Collected) -> list[str]:
    """The arms with missing runs, and the missing seeds."""
    study = collected.study
    missing = []
    for setting in study["settings"]:
        for arm in study["arms"]:
            finished = collected.finals(setting, arm)
            seeds = [s for s in study["seeds"] if s not in finished]
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
    """The same value with None in place of NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: jsonable(part) for name, part in value.items()}
    if isinstance(value, list):
        return [jsonable(part) for part in value]
    return None if isinstance(value, float) and math.isnan(value) else value
