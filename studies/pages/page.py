"""The page of a study. All its numbers are computed from the records of the runs."""

import collections
from typing import Any

from introspect_jax.train.progress import duration
from studies.pages import calibration, tables
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
            f"mean); differences from `{study['baseline']}`, paired by seed; p-values "
            "of the paired t test, corrected by Holm over all differences of the "
            f"setting{tables.costs_note(part)}*"
        )
        parts += [sentences(part, study["baseline"])]
        if entropies := target_entropies(part):
            parts.append(entropies)
        if part["contrasts"]:
            parts += [tables.contrasts_markdown(part), contrast_sentences(part)]
        parts += calibration.section(part, study["baseline"])
        if scaled := scaled_sentences(part, study["baseline"]):
            parts.append(scaled)
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
    parts.append("\n".join(lines) if lines else "Nothing is missing.")
    parts += ["## Reproducing these results", _reproducing(collected)]
    return "\n\n".join(parts) + "\n"


def verdict(part: Part) -> str:
    """Whether the positive controls help, which makes null results informative."""
    controls = [row for row in part["rows"] if row["control"]]
    if not controls:
        return (
            "**No positive control was run here, so null results are uninformative.**"
        )
    shown = "; ".join(
        f"{row['arm']} {tables.difference(row['top1_difference']) or '?'} points"
        for row in controls
    )
    if part["informative"]:
        helping = " and ".join(f"`{name}`" for name in part["helping_controls"])
        return (
            f"**Positive control: {shown}. {helping} helps, so the setting can show an "
            "improvement.**"
        )
    return (
        f"**Positive control: {shown}. None helps measurably, so null results here are "
        "uninformative.**"
    )


def sentences(part: Part, baseline: str) -> str:
    """A sentence for every arm on its differences from the baseline."""
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
    """A sentence for every contrast of the study."""
    return "\n".join(
        "- "
        + _compared(c["first"], c["second"], c["top1_difference"], c["top1_p_holm"])
        + _beside(c)
        for c in part["contrasts"]
    )


def scaled_sentences(part: Part, baseline: str) -> str:
    """A sentence for every arm and contrast that differs at the fitted temperatures."""
    pairs = [(row["arm"], baseline, row) for row in part["rows"]]
    pairs += [(c["first"], c["second"], c) for c in part["contrasts"]]
    return "\n".join(
        f"- `{first}` against `{second}`, both at their T:{text}"
        for first, second, row in pairs
        if (text := _beside(row, "_scaled", " at T"))
    )


def _beside(row: dict[str, Any], suffix: str = "", at: str = "") -> str:
    """Sentences on likelihood and calibration where their intervals exclude zero.

    Args:
      row: an arm or a contrast.
      suffix: of the metrics.
      at: the same in words.
    """
    text = ""
    for metric, unit, name, scale, digits in (
        ("nll", "NLL", "likelihood", 1, 3),
        ("ece", "ECE", "calibration", 100, 2),
    ):
        difference = row.get(f"{metric}{suffix}_difference")
        if difference and (difference["low"] > 0 or difference["high"] < 0):
            better = "better" if difference["mean"] < 0 else "worse"
            shown = f"{unit}{at} {tables.difference(difference, scale, digits)}"
            if f"{metric}{suffix}" in row.get("unranked", ()):
                text += f" Both are at the floor of the ECE ({shown}): not ranked."
                continue
            kept = _kept(row[f"{metric}{suffix}_p_holm"])
            text += f" Its {name} is {better} ({shown}{kept})."
    return text


def _compared(
    first: str, second: str, difference: dict[str, float], p_holm: float
) -> str:
    if difference["n"] < 2:
        return f"`{first}` and `{second}`: too few seeds to compare."
    shown = f"{tables.difference(difference)} points"
    low, high = difference["low"], difference["high"]
    if low <= 0 <= high:
        return f"`{first}`: no measurable difference from `{second}` ({shown})."
    better = "better" if difference["mean"] > 0 else "worse"
    return f"`{first}` is {better} than `{second}` ({shown}{_kept(p_holm)})."


def _kept(p_holm: float) -> str:
    return "" if p_holm < SIGNIFICANT else ", not after Holm's correction"


def target_entropies(part: Part) -> str:
    """The entropies of the soft targets, which are strengths of smoothing."""
    shown = [
        f"`{row['arm']}` {row['train_target_entropy']:.3f}"
        for row in part["rows"]
        if row["train_target_entropy"]
    ]
    if not shown:
        return ""
    return (
        "Mean entropy of the soft target at the end of training, in nats, over the "
        f"classes that it covers: {', '.join(shown)}."
    )


def detectable(part: Part) -> str:
    """The smallest difference that the study would find, and the seeds for others."""
    limits = part["detectable"]
    if not limits:
        return "One seed does not allow comparisons."
    return (
        f"The paired standard deviation is {100 * limits['paired_sd']:.2f} points "
        f"(median over the differences). With {limits['seeds']} seeds a true "
        f"difference of {100 * limits['smallest_difference']:.2f} points would be "
        "found with 80 % probability (before correction); for "
        f"{100 * limits['of_interest']:g} points it takes {limits['seeds_needed']} "
        "seeds."
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
    shared = ", shared by several runs at a time" if device.get("shared") else ""
    return f"{device['count']} {device['kind']}{shared}"


def _tuning(study: dict[str, Any]) -> str:
    seeds = ", ".join(map(str, study["tuning_seeds"]))
    return (
        "Every arm below got the same number of trials, scored on the validation split "
        f"at the last step, with seeds that are not used again ({seeds})."
    )


def _reproducing(collected: Collected) -> str:
    """What the files contain, and when a run gives the same bits."""
    devices = collections.Counter(
        r["summary"]["device"]["platform"] for r in collected.records.values()
    )
    text = (
        "Every JSON file under `runs/` holds the command, the config, the versions, "
        "the device and the results of one run. `statistics.json` holds the "
        "statistics of this page to six digits; the page itself is rounded from the "
        "unrounded statistics of these runs."
    )
    if devices.get("cpu"):
        text += (
            " With the same versions and number of cores, on the same kind of CPU, a "
            "run gives the same bits (`taskset -c 0 python ...` for one core)."
        )
    return text
