"""The page of a study, in words. No number on it comes from anywhere but the runs."""

import collections
from typing import Any

from introspect_jax.train.progress import duration
from studies.pages import tables
from studies.pages.collect import Collected
from studies.pages.statistics import SIGNIFICANT

Part = dict[str, Any]


def page(
    collected: Collected, summary: dict[str, Any], pictures: dict[str, list[str]]
) -> str:
    """`README.md` of the results.

    Args:
      collected: the study.
      summary: of `statistics.summarise`.
      pictures: setting -> file names of its figures.
    """
    study = collected.study
    parts = [f"# {study['question']}", _setup(collected)]
    if study["about"]:
        parts.append(study["about"])
    for part in summary["settings"]:
        if part["setting"]:
            parts.append(f"## {part['setting']}")
        parts += [verdict(part), tables.markdown(part, collected)]
        parts.append(
            "*Last step; mean ± standard deviation of one run (95 % t interval of the "
            f"mean); differences to `{study['baseline']}` paired by seed; p-values of "
            "the paired t test, corrected by Holm over all differences of the setting; "
            "cost as multiples of the baseline's step; no time where it differs by "
            "more than a quarter between runs of one arm, which shared their machine "
            "with others.*"
        )
        parts += [sentences(part, study["baseline"])]
        if part["contrasts"]:
            parts += [tables.contrasts_markdown(part), contrast_sentences(part)]
        parts.append(detectable(part))
        parts += [f"![{name}]({name})" for name in pictures[part["setting"]]]
        parts += [
            "At the step that was best on validation, beside the last:",
            tables.best_markdown(part),
        ]
    if summary["tuning"]:
        parts += [
            "## Tuning",
            _tuning(study),
            tables.tuning_markdown(summary["tuning"]),
        ]
    parts.append("## What was not run")
    missing = summary["not_run"]
    failed = [
        f"{f['arm']} seed {f['seed']} failed: {f['message']}" for f in summary["failed"]
    ]
    lines = [f"- {line}" for line in missing + failed]
    parts.append(
        "\n".join(lines) if lines else "Nothing: every run of the study is here."
    )
    parts += ["## Again", _again(collected)]
    return "\n\n".join(parts) + "\n"


def verdict(part: Part) -> str:
    """Does the setting tell anything?"""
    controls = [row for row in part["rows"] if row["control"]]
    if not controls:
        return "**No positive control was run here, so no null result tells anything.**"
    shown = "; ".join(
        f"{row['arm']} {tables.difference(row['top1_difference']) or '?'} points"
        for row in controls
    )
    if part["informative"]:
        helping = " and ".join(f"`{name}`" for name in part["helping_controls"])
        return (
            f"**Positive control: {shown}. {helping} helps, so a difference can be "
            "seen here.**"
        )
    return (
        f"**Positive control: {shown}. None can be told from no help, so null results "
        "here are uninformative.**"
    )


def sentences(part: Part, baseline: str) -> str:
    """What every arm did, in words."""
    lines = []
    for row in part["rows"]:
        if "top1_difference" not in row:
            continue
        text = _compared(
            row["arm"], baseline, row["top1_difference"], row["top1_p_holm"]
        )
        lines.append(f"- {text}{_beside(row)}")
    return "\n".join(lines)


def contrast_sentences(part: Part) -> str:
    """The same for the differences that were asked for."""
    return "\n".join(
        "- "
        + _compared(c["first"], c["second"], c["top1_difference"], c["top1_p_holm"])
        + _beside(c)
        for c in part["contrasts"]
    )


def _beside(row: dict[str, Any]) -> str:
    """Likelihood and calibration, where they differ."""
    text = ""
    for metric, name, scale, digits in (
        ("nll", "likelihood", 1, 3),
        ("ece", "calibration", 100, 2),
    ):
        found = row[f"{metric}_difference"]
        if found["low"] > 0 or found["high"] < 0:
            better = "better" if found["mean"] < 0 else "worse"
            shown = tables.difference(found, scale, digits)
            unit = "ECE" if metric == "ece" else "NLL"
            text += (
                f" Its {name} is {better} ({unit} {shown}"
                f"{_kept(row[f'{metric}_p_holm'])})."
            )
    return text


def _compared(first: str, second: str, found: dict[str, float], p_holm: float) -> str:
    if found["n"] < 2:
        return f"`{first}` and `{second}`: too few seeds to compare."
    shown = f"{tables.difference(found)} points"
    low, high = found["low"], found["high"]
    if low <= 0 <= high:
        return f"`{first}`: no difference to `{second}` can be seen ({shown})."
    better = "better" if found["mean"] > 0 else "worse"
    return f"`{first}` is {better} than `{second}` ({shown}{_kept(p_holm)})."


def _kept(p_holm: float) -> str:
    return "" if p_holm < SIGNIFICANT else ", not after Holm's correction"


def detectable(part: Part) -> str:
    """What could have been seen."""
    found = part["detectable"]
    if not found:
        return "With one seed nothing can be compared."
    return (
        f"The paired standard deviation is {100 * found['paired_sd']:.2f} points "
        f"(median over the differences). With {found['seeds']} seeds a true difference "
        f"of {100 * found['smallest_difference']:.2f} points would be found with 80 % "
        f"probability (before correction); for {100 * found['of_interest']:g} points "
        f"it takes {found['seeds_needed']} seeds."
    )


def _setup(collected: Collected) -> str:
    """Data, network, schedule, hardware, versions, dates: from the records."""
    study = collected.study
    records = [r for r in collected.records.values() if r["phase"] == "final"]
    configs = [r["config"] for r in records]
    summaries = [r["summary"] for r in records]

    def every(values) -> str:
        return ", ".join(map(str, dict.fromkeys(values)))

    devices = [device_words(s["device"]) for s in summaries]
    examples = every(f"{s['examples']['train']:,}" for s in summaries)
    tests = every(f"{s['examples']['test']:,}" for s in summaries)
    dates = sorted({s["date"] for s in summaries})
    seconds = sum(r["summary"]["seconds"] for r in collected.records.values())
    return (
        f"{study['data'] or every(c['data.name'] for c in configs)}; config "
        f"`{study['config']}`; {every(c['model.name'] for c in configs)}, "
        f"{examples} training images, {every(c['total_steps'] for c in configs)} steps "
        f"of {every(c['batch_size'] for c in configs)} images; scored on all {tests} "
        f"test images. {len(records)} final runs, "
        f"{len(collected.records) - len(records)} others, {duration(seconds)} h of "
        f"training. Device: {every(devices)}; "
        f"JAX {every(s['versions']['jax'] for s in summaries)}; "
        f"{' to '.join(dict.fromkeys((dates[0], dates[-1])))}."
    )


def device_words(device: dict[str, Any]) -> str:
    """Of a summary's `device`: `1 of 2 CPU cores`, or `1 NVIDIA H200`."""
    if device["platform"] == "cpu":
        return f"{device['cpus_used']} of {device['host_cpus']} CPU cores"
    return f"{device['count']} {device['kind']}"


def _tuning(study: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, study["tuning_seeds"]))
    return (
        "Every arm below got the same number of trials, scored on the validation split "
        f"at the last step, with seeds that are not used again ({seeds})."
    )


def _again(collected: Collected) -> str:
    """How to reproduce a row."""
    devices = collections.Counter(
        r["summary"]["device"]["platform"] for r in collected.records.values()
    )
    text = (
        "Every JSON under `runs/` has the command, the config, the versions, the "
        "device and the results of a run; `statistics.json`, with them, has every "
        "number of this page."
    )
    if devices.get("cpu"):
        text += (
            " With the same versions on as many cores of the same kind of CPU a run "
            "ends in the same bits (`taskset -c 0 python ...` for one core)."
        )
    return text
