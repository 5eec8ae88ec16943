"""The page of `launch/agreement.py`: a table, a summary and a figure."""

import math
from typing import Any

import numpy as np

from introspect_jax.explain import render
from studies.forms import FORMS, OWN_LOGITS, WEIGHT_ROWS

Row = dict[str, Any]
# Column -> explanation. Each is a rank correlation over the classes that are not the
# label.
COLUMNS = {
    "class": "class means, with those of the teacher's logits",
    "example": "each example, with the teacher's logits",
    "instance": "each example without the mean of its class, both sides",
    "beyond": "the same, given the network's own logits",
    "confusion": "class means, with the rows of the network's own confusion matrix",
    "confusion_example": "each example, with the row of the confusion matrix",
}
# Forms that are drawn over training.
_DRAWN = (
    OWN_LOGITS,
    WEIGHT_ROWS,
    "gradient, projection",
    "gradient, cosine",
    "SmoothGrad 8, cosine",
    "Grad-CAM, cosine",
)


def page(about: Row, rows: list[Row]) -> str:
    """`README.md` of the results.

    Args:
      about: The run, its teacher and the images.
      rows: A row for each step and form, with a mean and an interval for each column.
    """
    last = max(row["step"] for row in rows)
    final = [row for row in rows if row["step"] == last]
    run, teacher = about["run"], about["teacher"]
    weight_rows = next(row for row in final if row["form"] == WEIGHT_ROWS)
    lines = [
        "# What does the soft target know?",
        f"{about['data']}: one {run['model']} (`{run['method']}`, seed {run['seed']}, "
        f"{run['training_images']:,} training images, {run['steps']} steps; "
        f"{100 * final[0]['top1']:.1f} % of these images right) against one "
        f"{teacher['model']} ({teacher['training_images']:,} training images, "
        f"{teacher['steps']} steps; {100 * teacher['top1_on_these']:.1f} %): "
        f"{about['images']:,} validation images; {run['device']}, JAX {run['jax']}, "
        f"{run['date']}. "
        "Spearman's rank correlations over the classes that are not the label, with "
        "95 % bootstrap intervals over images (over classes where class means are "
        "compared).",
        "\n".join(f"- **{name}**: {text}" for name, text in COLUMNS.items()),
        "\n".join(
            [
                "| form | " + " | ".join(COLUMNS) + " |",
                "| --- |" + " ---: |" * len(COLUMNS),
                *(
                    f"| {row['form']} | "
                    + " | ".join(_shown(row[column]) for column in COLUMNS)
                    + " |"
                    for row in final
                ),
            ]
        ),
        _summary(final, weight_rows),
        "![over training](agreement.png)",
    ]
    return "\n\n".join(lines) + "\n"


def _summary(final: list[Row], weight_rows: Row) -> str:
    """The forms whose intervals exclude zero, or those of the weight rows."""
    forms = [row for row in final if row["form"] in FORMS]
    specific = [r["form"] for r in forms if r["instance"]["low"] > 0]
    against = [r["form"] for r in forms if r["instance"]["high"] < 0]
    beyond = [r["form"] for r in forms if r["beyond"]["low"] > 0]
    better = [
        r["form"] for r in forms if r["example"]["low"] > weight_rows["example"]["high"]
    ]

    def listed(names: list[str]) -> str:
        return "; ".join(names) if names else "none"

    return "\n".join(
        [
            "- Agree with the teacher on single examples more than the weight rows do: "
            f"{listed(better)}.",
            "- Agree with the teacher on what is specific to an example: "
            f"{listed(specific)}.",
            "- Disagree with the teacher on what is specific to an example: "
            f"{listed(against)}.",
            "- Agree with the teacher beyond the network's own logits: "
            f"{listed(beyond)}.",
        ]
    )


def _shown(interval: dict[str, float]) -> str:
    low, mean, high = (interval[name] for name in ("low", "mean", "high"))
    return "-" if math.isnan(mean) else f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"


def figure(about: Row, rows: list[Row]):
    """Agreement with the teacher over training."""
    shown = ("class", "example", "instance", "beyond")
    drawing, axes = render.new_figure(1, len(shown), (4.0 * len(shown), 4.0))
    for axis, column in zip(axes[0], shown, strict=True):
        for form in _DRAWN:
            of_form = [row for row in rows if row["form"] == form]
            steps = [row["step"] for row in of_form]
            low, mean, high = (
                np.array([row[column][part] for row in of_form], float)
                for part in ("low", "mean", "high")
            )
            if np.isnan(mean).all():
                continue
            label = form if axis is axes[0][0] else None
            color = f"C{_DRAWN.index(form)}"
            axis.plot(steps, mean, color=color, label=label, marker="o", markersize=3)
            axis.fill_between(steps, low, high, color=color, alpha=0.15)
        axis.axhline(0, color="black", linewidth=0.8)
        axis.set_title(f"{column}", fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("rank correlation with the teacher")
    run = about["run"]
    drawing.suptitle(
        f"{about['data']}, {run['training_images']:,} training images, {run['model']}, "
        f"{run['method']}, seed {run['seed']} (one run); {about['images']:,} "
        f"validation images; {run['device']}, {run['date']}",
        fontsize=9,
    )
    drawing.legend(loc="outside lower center", ncols=3, fontsize=9)
    return drawing
