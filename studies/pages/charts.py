"""The figures of a study."""

import math
import statistics
from typing import Any

import numpy as np

from introspect_jax.explain import render
from studies.comparison import mean_interval
from studies.pages import tables
from studies.pages.collect import Collected
from studies.pages.page import device_words

Part = dict[str, Any]
# Losses so many times as large as the median difference, which counts as a point
# at least, are beyond the axis.
_BEYOND, _SMALL = 10, 1.0
# Rows of a legend beside the axes, and inches of a column.
_LEGEND_ROWS, _LEGEND_WIDTH = 20, 2.3


def caption(part: Part, collected: Collected) -> str:
    """Caption of every figure: setting, data, number of seeds, device and date."""
    study = collected.study
    seeds = [len(row["seeds"]) for row in part["rows"]]
    shown = str(min(seeds)) if len(set(seeds)) == 1 else f"{min(seeds)} to {max(seeds)}"
    summaries = [
        record["summary"]
        for row in part["rows"]
        for record in collected.finals(part["setting"], row["arm"]).values()
    ]
    devices = dict.fromkeys(device_words(s["device"]) for s in summaries)
    words = [part["setting"], study["data"] or study["config"], f"seeds: {shown}"]
    words += [*devices, max(s["date"] for s in summaries)]
    return "; ".join(render.plain(word) for word in words if word)


def words(arm: str, setting: str, study: dict[str, Any], record: dict[str, Any]) -> str:
    """Caption of a figure of a single run."""
    summary = record["summary"]
    parts = [arm, setting, study["data"], f"seed {record['seed']}"]
    parts += [device_words(summary["device"]), summary["date"]]
    return "; ".join(render.plain(part) for part in parts if part)


def differences(part: Part, baseline: str):
    """Paired differences from the baseline with their intervals, arm by arm.

    Arms that lose far more than the others, because they hardly train, are written at
    the edge: on an axis for all of them no other difference could be seen.
    """
    rows = [row for row in part["rows"] if "top1_difference" in row]
    figure, axes = render.new_figure(1, 1, (7.5, 1.3 + 0.36 * len(rows)))
    axis = axes[0][0]
    limit = _limit(part)
    for place, row in enumerate(reversed(rows)):
        mean, low, high = _percent(row["top1_difference"])
        color = "tab:green" if row["control"] else "tab:blue"
        if mean < -limit:
            axis.plot(-limit, place, "<", color=color, clip_on=False)
            axis.annotate(
                tables.difference(row["top1_difference"], digits=1),
                (-limit, place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
            )
            continue
        axis.plot(mean, place, "o", color=color)
        axis.plot([low, high], [place] * 2, color=color)
    if limit < math.inf:
        axis.set_xlim(left=-limit)
    axis.axvline(0, color="black", linewidth=0.8)
    names = [
        f"{row['arm']} (control)" if row["control"] else row["arm"]
        for row in reversed(rows)
    ]
    axis.set_yticks(range(len(rows)), [render.plain(n) for n in names], fontsize=9)
    axis.set_ylim(-0.6, len(rows) - 0.4)
    axis.set_xlabel(f"test top-1, points above {baseline} (95 % interval)")
    axis.grid(alpha=0.3, axis="x")
    return figure


def cost(part: Part):
    """Accuracy against the FLOPs of a step; None if no FLOPs are known."""
    rows = [r for r in part["rows"] if not math.isnan(r["flops_per_step_ratio"])]
    if not rows:
        return None
    figure, (axis,) = _with_legend(rows, 1, (7.5, 4.6))
    far = _far(part)
    for number, row in enumerate(rows):
        x = row["flops_per_step_ratio"]
        mean, low, high = _percent(row["top1_last"])
        color, marker = f"C{number % 10}", "os^Dv*"[number // 10 % 6]
        axis.plot(x, mean, marker, color=color, label=row["arm"])
        axis.plot([x, x], [low, high], color=color, alpha=0.6)
    spans = [_percent(row["top1_last"]) for row in rows if row["arm"] not in far]
    _fit(axis, [(np.nanmin(span), np.nanmax(span)) for span in spans], far)
    axis.set_xlabel("FLOPs of a step, multiples of the baseline's")
    axis.set_ylabel("test top-1 % (95 % interval)")
    axis.grid(alpha=0.3)
    _legend(figure, rows)
    return figure


def curves(part: Part, collected: Collected):
    """Training loss and validation accuracy: mean and standard deviation of seeds."""
    panels = (
        ("train", "loss", 1, "training loss, nats"),
        ("validation", "top1", 100, "validation top-1 %"),
    )
    figure, axes = _with_legend(part["rows"], len(panels), (11.5, 4.2))
    far = _far(part)
    for axis, (split, name, scale, title) in zip(axes, panels, strict=True):
        spans = []
        for number, row in enumerate(part["rows"]):
            records = collected.finals(part["setting"], row["arm"]).values()
            by_step: dict[int, list[float]] = {}
            for record in records:
                for line in record["curves"][split]:
                    by_step.setdefault(line["step"], []).append(scale * line[name])
            steps = sorted(s for s in by_step if len(by_step[s]) == len(records))
            intervals = [mean_interval(by_step[step]) for step in steps]
            means = np.array([interval["mean"] for interval in intervals])
            spread = np.nan_to_num([interval["sd"] for interval in intervals])
            label = row["arm"] if axis is axes[0] else None
            style = ("-", "--", ":", "-.")[number // 10 % 4]
            color = f"C{number % 10}"
            axis.plot(steps, means, style, color=color, label=label)
            axis.fill_between(
                steps, means - spread, means + spread, color=color, alpha=0.12
            )
            if row["arm"] not in far and steps:
                spans.append(((means - spread).min(), (means + spread).max()))
        _fit(axis, spans, far)
        axis.set_xlabel("step")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    _legend(figure, part["rows"])
    return figure


def _percent(estimate: dict[str, float]) -> tuple[float, float, float]:
    mean, low, high = (100 * estimate[name] for name in ("mean", "low", "high"))
    return mean, low, high


def _limit(part: Part) -> float:
    """Loss in points beyond which an arm is far from the others, or infinity."""
    means = [
        _percent(row["top1_difference"])[0]
        for row in part["rows"]
        if "top1_difference" in row
    ]
    if not means:
        return math.inf
    limit = _BEYOND * max(statistics.median(map(abs, means)), _SMALL)
    return limit if -min(means) > limit else math.inf


def _far(part: Part) -> set[str]:
    """The arms that lose more than `_limit`."""
    limit = _limit(part)
    return {
        row["arm"]
        for row in part["rows"]
        if "top1_difference" in row and _percent(row["top1_difference"])[0] < -limit
    }


def _fit(axis: Any, spans: list[tuple[float, float]], far: set[str]) -> None:
    """Fits a vertical axis to the spans of all but the arms that are far from the
    others."""
    if not far or not spans:
        return
    low, high = min(span[0] for span in spans), max(span[1] for span in spans)
    margin = 0.05 * (high - low)
    axis.set_ylim(low - margin, high + margin)
    axis.set_title(f"arms outside, at least in part: {len(far)}", fontsize=8)


def _with_legend(rows: list[Any], panels: int, size: tuple[float, float]):
    """A figure with a row of axes and room for a legend of all rows beside them."""
    columns = -(-len(rows) // _LEGEND_ROWS)
    width = size[0] + _LEGEND_WIDTH * (columns - 1)
    figure, axes = render.new_figure(1, panels, (width, size[1]))
    return figure, axes[0]


def _legend(figure: Any, rows: list[Any]) -> None:
    columns = -(-len(rows) // _LEGEND_ROWS)
    figure.legend(loc="outside right upper", fontsize=8, ncols=columns)
