"""The figures of a study."""

from typing import Any

import numpy as np

from introspect_jax.explain import render
from studies.comparison import mean_interval
from studies.pages.collect import Collected
from studies.pages.page import device_words

Part = dict[str, Any]


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
    """Paired differences from the baseline with their intervals, arm by arm."""
    rows = [row for row in part["rows"] if "top1_difference" in row]
    figure, axes = render.new_figure(1, 1, (7.5, 1.3 + 0.36 * len(rows)))
    axis = axes[0][0]
    for place, row in enumerate(reversed(rows)):
        mean, low, high = (
            100 * row["top1_difference"][name] for name in ("mean", "low", "high")
        )
        color = "tab:green" if row["control"] else "tab:blue"
        axis.plot(mean, place, "o", color=color)
        axis.plot([low, high], [place] * 2, color=color)
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
    """Accuracy against the FLOPs of a step."""
    figure, axes = render.new_figure(1, 1, (7.5, 4.6))
    axis = axes[0][0]
    for number, row in enumerate(part["rows"]):
        x = row["flops_per_step_ratio"]
        mean, low, high = (
            100 * row["top1_last"][name] for name in ("mean", "low", "high")
        )
        color = f"C{number % 10}"
        marker = "o" if number < 10 else "s"
        axis.plot(x, mean, marker, color=color, label=row["arm"])
        axis.plot([x, x], [low, high], color=color, alpha=0.6)
    axis.set_xlabel("FLOPs of a step, multiples of the baseline's")
    axis.set_ylabel("test top-1 % (95 % interval)")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure


def curves(part: Part, collected: Collected):
    """Training loss and validation accuracy: mean and standard deviation of seeds."""
    panels = (
        ("train", "loss", 1, "training loss, nats"),
        ("validation", "top1", 100, "validation top-1 %"),
    )
    figure, axes = render.new_figure(1, len(panels), (11.5, 4.2))
    for axis, (split, name, scale, title) in zip(axes[0], panels, strict=True):
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
            label = row["arm"] if axis is axes[0][0] else None
            style = "-" if number < 10 else "--"
            color = f"C{number % 10}"
            axis.plot(steps, means, style, color=color, label=label)
            axis.fill_between(
                steps, means - spread, means + spread, color=color, alpha=0.12
            )
        axis.set_xlabel("step")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    return figure
