"""The page that lists all studies and every form that was tried."""

from typing import Any

from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.train.files import write_text
from studies.pages.collect import Collected, collect
from studies.pages.page import device_words
from studies.pages.statistics import summarise
from studies.pages.tables import difference, p_value, ratio, to_markdown, unranked


def write_index(results: str) -> str:
    """Writes `README.md` of a folder of results, from the records in it.

    Raises:
      UserError: The folder has no results, or a study without a finished run.
    """
    root = absolute(results)
    folders = sorted(file.parent for file in root.glob("*/study.json"))
    if not folders:
        raise UserError(
            f"--index {results!r} has no results; give the folder that holds those of "
            "launch/report.py"
        )
    parts = [
        "# Results",
        "Every form that was tried, with every outcome: differences from the baseline "
        "in test top-1 (points), NLL (nats) and ECE (points; of both, less is better), "
        "paired by seed, with 95 % intervals; p-values of top-1, corrected by Holm "
        "over all differences of a setting. The page of each study describes the "
        "setting and links the record of every run.",
    ]
    for folder in folders:
        collected = collect(str(folder), folder)
        summary = summarise(collected)
        parts.append(f"## [{summary['question']}]({folder.name}/README.md)")
        for part in summary["settings"]:
            parts += [_where(collected, part), _table(part)]
    others = sorted(p.parent.name for p in root.glob("*/agreement.json"))
    if others:
        parts.append("## What does the soft target know?")
        parts.append("\n".join(f"- [{n}]({n}/README.md)" for n in others))
    text = "\n\n".join(parts) + "\n"
    write_text(root / "README.md", text)
    return text


def _where(collected: Collected, part: dict[str, Any]) -> str:
    ids = {id for row in part["rows"] for id in row["ids"].values()}
    summaries = [collected.records[id]["summary"] for id in ids]
    devices = ", ".join(sorted({device_words(s["device"]) for s in summaries}))
    state = (
        "informative"
        if part["informative"]
        else "no positive control helps: uninformative"
    )
    words = [
        part["setting"],
        state,
        devices,
        max((s["date"] for s in summaries), default=""),
    ]
    return "; ".join(word for word in words if word) + "."


def _table(part: dict[str, Any]) -> str:
    rows = [
        [
            row["arm"] + (" (positive control)" if row["control"] else ""),
            str(len(row["seeds"])),
            f"{100 * row['top1_last']['mean']:.2f}",
            difference(row.get("top1_difference")),
            p_value(row.get("top1_p_holm")),
            difference(row.get("nll_difference"), 1, 3),
            difference(row.get("ece_difference")) + unranked(row, "ece"),
            ratio(row["flops_per_step_ratio"]),
        ]
        for row in part["rows"]
    ]
    headings = ["arm", "seeds", "top-1 %", "difference", "p", "NLL", "ECE %", "FLOPs"]
    return to_markdown(headings, rows)
