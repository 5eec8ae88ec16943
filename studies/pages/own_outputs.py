"""The page of `studies.own_outputs`: tables, a summary and a figure."""

import datetime
import math
from typing import Any

import jax
from etils import epath

from introspect_jax.explain import render
from introspect_jax.machine import describe_device
from introspect_jax.train.files import write_json, write_text
from studies.forms import MANY_CLASSES, OWN_LOGITS, WEIGHT_ROWS
from studies.own_outputs import (
    COMMON,
    LEAST_IMAGES,
    OWN_PRODUCTS,
    WEIGHT_ROW_PRODUCTS,
)
from studies.pages.page import device_words
from studies.pages.tables import difference, to_markdown

Results = dict[str, dict[str, Any]]
# Sample of images -> its heading.
HEADINGS = {
    "recognised": "{images:,} images that the network recognises",
    "random": "{images:,} images at random",
    "photographs": "{images} photographs",
}
# Samples of one size, compared in the summary and the figure.
_COMPARED = ("recognised", "random")
# Column -> heading. Of the first question, then of the second.
OWN_IMAGE = {
    "example": "example",
    "beyond_rows": "beyond w",
    "beyond_fixed": "beyond w, m",
    "instance": "instance",
    "class": "class",
    "class_beyond": "class, beyond w",
}
OTHER_IMAGES = {
    "others": "others",
    "others_beyond": "others, beyond z",
    "others_beyond_fixed": "others, beyond z, w, m",
    "mirror_beyond": "mirrored, beyond z",
    "mirror_beyond_fixed": "mirrored, beyond z, w, m",
}
_FORMULAS = """\
The network's logits for an image are `z`, its top class is `y`, and `s_k` is the \
similarity of the explanations of classes k and y. Let `rho(s, r)` be Spearman's rank \
correlation over the 999 classes other than y, and `rho(s, r | c, ...)` the partial \
one: the correlation of what a linear regression on the ranks of `c, ...` leaves of \
the ranks of s and r. `w` stands for two arrays, the inner products and the cosines of \
the weight rows of classes k and y in the last layer; `m` is the mean of z over the \
images of the sample with other top classes; `p` is the mean of z over the other \
images of the sample with the same top class (images without others are left out); \
`z'` are the logits of the mirrored image. A bar is a mean over the images with the \
same top class; the columns of classes are of those with at least {least} images.

| column | value for each image (for each class in the columns of classes) |
| --- | --- |
| example | `rho(s, z)` |
| beyond w | `rho(s, z \\| w)` |
| beyond w, m | `rho(s, z \\| w, m)` |
| instance | `rho(s - s̄, z - z̄)` |
| class | `rho(s̄, z̄)` |
| class, beyond w | `rho(s̄, z̄ \\| w)` |
| others | `rho(s, p)` |
| others, beyond z | `rho(s, p \\| z)` |
| others, beyond z, w, m | `rho(s, p \\| z, w, m)` |
| mirrored, beyond z | `rho(s, z' \\| z)` |
| mirrored, beyond z, w, m | `rho(s, z' \\| z, w, m)` |

Cells are means with 95 % bootstrap intervals over images, or over classes; headings \
have their number in brackets. The second question needs responses that are not z \
itself, because z cannot say anything beyond z: p is what the network tends to answer \
for the class, z' a second answer for the same image. w and m depend on y alone. b is \
the bias of the last layer; the product `(z_k - b_k) (z_y - b_y)` is a part of the \
inner products of Grad-CAM."""


def write(output: epath.PathLike, about: dict[str, Any], results: Results) -> None:
    """Writes `README.md`, `agreement.json` and `agreement.png`.

    Args:
      output: Folder; it is created if it does not exist.
      about: `network`, `data` (sentences on the images), and whatever else the JSON
        file should contain.
      results: Of `own_outputs`, with the names of `HEADINGS`.
    """
    folder = epath.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    about = about | {
        "device": device_words(describe_device(1)),
        "jax": jax.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(folder / "agreement.json", about | {"results": results})
    render.save(figure(about, results), folder / "agreement.png", dpi=100)
    write_text(folder / "README.md", page(about, results))


def page(about: dict[str, Any], results: Results) -> str:
    """`README.md` of the results; see `write`."""
    parts = [
        "# What do the similarities of a trained ImageNet network know?",
        "With the network's own outputs in place of a teacher: do similarities of "
        "input gradients order 1,000 classes as its outputs do, by class and by "
        "example, beyond the weight rows of the last layer? Do those of Grad-CAM agree "
        "with its outputs for other images beyond its logits for the same image?",
        f"{about['network']} {about['data']} One network, so that there are no seeds "
        f"to average over. {about['device']}, JAX {about['jax']}, {about['date']}.",
        _FORMULAS.format(least=LEAST_IMAGES),
        "## What the numbers say",
        _summary(results),
        "![rank correlations](agreement.png)",
    ]
    for sample, result in _in_order(results).items():
        parts.append("## " + HEADINGS[sample].format(**result))
        forms = [form for form in result["scores"] if form != OWN_LOGITS]
        parts.append(_table(result, forms, OWN_IMAGE))
        if table := _table(result, [OWN_LOGITS, *forms], OTHER_IMAGES):
            parts.append(table)
    parts += [
        "## What they do not say",
        "The network was trained by others on images of 224x224 pixels and is shown "
        "blurred ones; its errors on them need not be those on photographs. Whether "
        "it was trained on the originals of these images is not known here. Its own "
        "outputs are no teacher: agreement with them does not show that similarities "
        "are right, nor that they help training. Intervals take images as independent, "
        "though those of a class share p, and do not cover the choice of the network. "
        "Norms by 4 probes and SmoothGrad of 4 samples are noisy, which "
        "changes their correlations by an unknown amount.",
    ]
    return "\n\n".join(parts) + "\n"


def _in_order(results: Results) -> Results:
    return {name: results[name] for name in HEADINGS if name in results}


def _table(result: dict[str, Any], forms: list[str], headings: dict[str, str]) -> str:
    """Columns without values are left out; so is a table without any."""
    rows = [result["scores"][form] for form in forms]
    shown = {
        column: heading
        for column, heading in headings.items()
        if any(row[column]["count"] for row in rows)
    }
    if not shown:
        return ""
    counts = [max(row[column]["count"] for row in rows) for column in shown]
    titles = [
        f"{heading} ({count})"
        for heading, count in zip(shown.values(), counts, strict=True)
    ]
    cells = [
        [form, *(difference(row[column], 1) or "-" for column in shown)]
        for form, row in zip(forms, rows, strict=True)
    ]
    return to_markdown(["form", *titles], cells)


def _summary(results: Results) -> str:
    """A sentence for each question, of intervals on the two samples of enlarged images.

    Nothing here is typed, so that it follows from the numbers of any run.
    """
    samples = [results[name]["scores"] for name in _COMPARED]

    def sentence(column: str, question: str, controls: tuple[str, ...] = ()) -> str:
        groups: dict[str, list[str]] = {"above": [], "below": [], "neither": []}
        for form in MANY_CLASSES:
            sides = {_side(scores, form, column, controls) for scores in samples}
            side = sides.pop() if len(sides) == 1 else "neither"
            means = ", ".join(f"{s[form][column]['mean']:+.2f}" for s in samples)
            groups[side].append(f"`{form}` ({means})")
        words = [f"{side} {', '.join(f)}" for side, f in groups.items() if f]
        return f"- {question}: {'; '.join(words)}."

    return "\n".join(
        [
            "Above and below: the intervals of both samples of enlarged images lie "
            "above or below those of all controls named, or 0 where none is. In "
            "brackets: the means of images that are recognised, and of those at "
            "random.\n",
            sentence(
                "example",
                "Agreement with the logits by example (example; controls weight rows "
                "and m)",
                (WEIGHT_ROW_PRODUCTS, WEIGHT_ROWS, COMMON),
            ),
            sentence("beyond_fixed", "The same beyond weight rows and m (beyond w, m)"),
            sentence(
                "instance", "The same without what a class's images share (instance)"
            ),
            sentence(
                "class_beyond",
                "By class, beyond weight rows (class, beyond w; control m)",
                (COMMON,),
            ),
            sentence(
                "others_beyond_fixed",
                "With other images of the class, beyond own logits, weight rows and m "
                "(others, beyond z, w, m; control own logits without bias)",
                (OWN_PRODUCTS,),
            ),
            sentence(
                "mirror_beyond_fixed",
                "With the mirrored image, beyond own logits, weight rows and m "
                "(mirrored, beyond z, w, m; control own logits without bias)",
                (OWN_PRODUCTS,),
            ),
        ]
    )


def _side(scores: Any, form: str, column: str, controls: tuple[str, ...]) -> str:
    """Where the form's interval lies: above, or below, 0 or those of all controls."""
    own = scores[form][column]
    others = [scores[control][column] for control in controls]
    if own["low"] > max([other["high"] for other in others], default=0):
        return "above"
    if own["high"] < min([other["low"] for other in others], default=0):
        return "below"
    return "neither"


def figure(about: dict[str, Any], results: Results):
    """Correlations of each form on the two samples of enlarged images."""
    panels = {
        "with the logits of the image": ("example", "beyond_rows", "beyond_fixed"),
        "with other images of the class": (
            "others",
            "others_beyond",
            "others_beyond_fixed",
        ),
    }
    legends = (
        ("plain", "given weight rows", "given weight rows and mean logits"),
        ("plain", "given own logits", "given own and mean logits and weight rows"),
    )
    forms = [WEIGHT_ROW_PRODUCTS, WEIGHT_ROWS, COMMON, *MANY_CLASSES]
    size = (render.PAGE_WIDTH, 6.4)
    drawing, axes = render.new_figure(1, 2, size, sharey=True)
    for axis, (title, columns), labels in zip(
        axes[0], panels.items(), legends, strict=True
    ):
        for number, (column, label) in enumerate(zip(columns, labels, strict=True)):
            for sample in _COMPARED:
                _draw(axis, results[sample]["scores"], forms, column, number, sample)
            axis.plot([], [], "o", color=f"C{number}", label=label)
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("rank correlation")
        axis.grid(alpha=0.3, axis="x")
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), fontsize=8)
    axes[0][0].set_yticks(range(len(forms)), forms[::-1], fontsize=9)
    axes[0][0].set_ylim(-0.6, len(forms) - 0.4)
    count = results[_COMPARED[0]]["images"]
    drawing.suptitle(
        f"{about['name']}, {count} images each, filled: recognised, hollow: at random; "
        f"95 % intervals; {about['device']}, JAX {about['jax']}, {about['date']}",
        fontsize=9,
    )
    return drawing


def _draw(
    axis: Any, scores: Any, forms: list[str], column: str, number: int, sample: str
) -> None:
    """One column as points with intervals; filled for images that are recognised."""
    color = f"C{number}"
    for place, form in enumerate(reversed(forms)):
        interval = scores[form][column]
        if math.isnan(interval["mean"]):
            continue
        height = place + 0.24 * (1 - number) + (0.06 if sample == "random" else -0.06)
        axis.plot([interval["low"], interval["high"]], [height] * 2, color=color)
        face = "white" if sample == "random" else color
        axis.plot(interval["mean"], height, "o", color=color, mfc=face, markersize=4)
