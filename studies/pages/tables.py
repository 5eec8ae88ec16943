"""The tables of a study in Markdown, CSV and LaTeX."""

import csv
import io
import math
from collections.abc import Callable
from typing import Any

from studies.pages.collect import Collected

Row = dict[str, Any]
Part = dict[str, Any]
Columns = dict[str, Callable[[Row], str]]  # heading -> cell


def percent(estimate: dict[str, float]) -> str:
    """`66.68 ± 0.41 (66.17 to 67.19)`: mean, deviation of a run, interval."""
    return _shown(estimate, 100, 2)


def plain(estimate: dict[str, float]) -> str:
    """The same for values that are not percentages, with three digits."""
    return _shown(estimate, 1, 3)


def difference(
    estimate: dict[str, float] | None, scale: float = 100, digits: int = 2
) -> str:
    """`+0.52 (+0.11 to +0.93)`: mean and interval; empty if it is unknown."""
    if estimate is None or _unknown(estimate["mean"]):
        return ""
    text = f"{scale * estimate['mean']:+.{digits}f}"
    if _unknown(estimate["low"]):
        return text
    low, high = scale * estimate["low"], scale * estimate["high"]
    return f"{text} ({low:+.{digits}f} to {high:+.{digits}f})"


def p_value(p: float | None) -> str:
    """Three digits, or `< 0.001`; empty if it is unknown."""
    if _unknown(p):
        return ""
    assert p is not None
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def ratio(value: float | None) -> str:
    """`1.99x`."""
    return "" if _unknown(value) else f"{value:.2f}x"


def _unknown(value: float | None) -> bool:
    return value is None or math.isnan(value)


def _shown(estimate: dict[str, float], scale: float, digits: int) -> str:
    text = f"{scale * estimate['mean']:.{digits}f}"
    if _unknown(estimate["sd"]):
        return text
    low, high = scale * estimate["low"], scale * estimate["high"]
    return (
        f"{text} ± {scale * estimate['sd']:.{digits}f} "
        f"({low:.{digits}f} to {high:.{digits}f})"
    )


# Heading -> cell, of the table of the last step.
_COLUMNS: Columns = {
    "arm": lambda r: r["arm"] + (" (positive control)" if r["control"] else ""),
    "seeds": lambda r: str(len(r["seeds"])),
    "test top-1 %": lambda r: percent(r["top1_last"]),
    "difference": lambda r: difference(r.get("top1_difference")),
    "p (Holm)": lambda r: p_value(r.get("top1_p_holm")),
    "NLL": lambda r: plain(r["nll_last"]),
    "ECE %": lambda r: percent(r["ece_last"]),
    "FLOPs of a step": lambda r: ratio(r["flops_per_step_ratio"]),
    "time of a step": lambda r: ratio(r["step_seconds_ratio"]),
}
_COSTS = ("FLOPs of a step", "time of a step")


def _known(part: Part) -> Columns:
    """The columns but for costs that are not known of any arm."""
    return {
        heading: cell
        for heading, cell in _COLUMNS.items()
        if heading not in _COSTS or any(map(cell, part["rows"]))
    }


def markdown(part: Part, collected: Collected) -> str:
    """The table of a setting; every row links the records of its runs."""
    columns = _known(part)
    headings = [*columns, "runs"]
    rows = [
        [cell(row) for cell in columns.values()]
        + [
            " ".join(
                f"[{seed}](runs/{collected.name(id)})"
                for seed, id in row["ids"].items()
            )
        ]
        for row in part["rows"]
    ]
    return to_markdown(headings, rows)


def costs_note(part: Part) -> str:
    """What the costs in the table are, and which are left out."""
    costs = "; cost as multiples of the baseline's step."
    if _COSTS[0] not in _known(part):
        costs = ". FLOPs were not counted."
    return (
        f"{costs} The time is left out where it differs by more than a quarter between "
        "the runs of an arm: they shared their machine with others."
    )


def best_markdown(part: Part) -> str:
    """Test scores of the step that was best on validation, beside the last."""
    rows = [
        [
            row["arm"],
            percent(row["top1_last"]),
            percent(row["top1_best"]),
            plain(row["nll_best"]),
            percent(row["ece_best"]),
        ]
        for row in part["rows"]
    ]
    headings = ["arm", "last: top-1 %", "best: top-1 %", "best: NLL", "best: ECE %"]
    return to_markdown(headings, rows)


def unranked(pair: Row, ece: str) -> str:
    """What stands after a difference of ECEs that says nothing."""
    return " (both at the floor)" if ece in pair.get("unranked", ()) else ""


def contrasts_markdown(part: Part) -> str:
    """The table of the contrasts of the study."""
    rows = [
        [
            f"{c['first']} - {c['second']}",
            difference(c["top1_difference"]),
            p_value(c["top1_p_holm"]),
            difference(c["nll_difference"], 1, 3),
            difference(c["ece_difference"]) + unranked(c, "ece"),
        ]
        for c in part["contrasts"]
    ]
    return to_markdown(
        ["difference of", "test top-1 %", "p (Holm)", "NLL", "ECE %"], rows
    )


def tuning_markdown(tuning: list[Row]) -> str:
    """The trials with their scores on the validation split, and their minutes."""
    rows = [
        [
            " ".join(w for w in (entry["setting"], entry["arm"]) if w),
            trial["trial"] + (" (chosen)" if trial["trial"] == entry["chosen"] else ""),
            str(trial["seeds"]),
            f"{100 * trial['validation_top1']:.2f}",
            f"{entry['seconds'] / 60:.1f}",
        ]
        for entry in tuning
        for trial in entry["trials"]
    ]
    headings = ["arm", "trial", "seeds", "validation top-1 %", "minutes for the arm"]
    return to_markdown(headings, rows)


def to_csv(summary: dict[str, Any]) -> str:
    """All values of all rows, in columns `setting`, `arm`, and dotted names."""
    flat = [
        {"setting": part["setting"], **_flat(row)}
        for part in summary["settings"]
        for row in part["rows"]
    ]
    names = list(dict.fromkeys(name for row in flat for name in row))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return text.getvalue()


def to_latex(summary: dict[str, Any], more: Callable[[Part], Columns]) -> str:
    """A `tabular` for each setting, for the package booktabs.

    Args:
      summary: Of `statistics.summarise`.
      more: Setting -> the columns of a second `tabular`, or none.
    """
    parts = []
    for part in summary["settings"]:
        name = part["setting"] or summary["question"]
        parts.append(_tabular(name, part, _known(part)))
        if columns := more(part):
            parts.append(_tabular(f"{name}: calibration", part, columns))
    return "\n\n".join(parts) + "\n"


def _tabular(name: str, part: Part, columns: Columns) -> str:
    lines = [
        f"% {name}",
        r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}",
        r"\toprule",
        " & ".join(map(_latex, columns)) + r" \\",
        r"\midrule",
    ]
    lines += [
        " & ".join(_latex(cell(row)) for cell in columns.values()) + r" \\"
        for row in part["rows"]
    ]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def to_markdown(headings: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is aligned left, the others right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _latex(text: str) -> str:
    for old, new in (
        ("\\", r"\textbackslash "),
        ("%", r"\%"),
        ("_", r"\_"),
        ("&", r"\&"),
        ("#", r"\#"),
        ("±", r"$\pm$"),
        ("<", r"$<$"),
    ):
        text = text.replace(old, new)
    return text


def _flat(row: Row, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if name == "ids":
            continue
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = " ".join(map(str, value))
        else:
            flat[prefix + name] = value
    return flat
