"""Text of the page of photographs: what is shown, and the numbers of each."""

from typing import NamedTuple

import comparison
import numpy as np
import page_figures
from comparison import COUNT, LOW, Comparison
from page_figures import percent
from photograph_maps import NOISE, SAMPLES, SEED, STEPS, Explained

GRADIENT, ROWS = "input gradients", "weight rows"


class Facts(NamedTuple):
    """What the page says of its making.

    Attributes:
      network: Title of the network.
      classes: Names of the classes.
      unit: What a unit of the network's inputs is, in grey levels of 0 to 255.
      baseline: Grey level of the baseline of integrated gradients.
      made: Hardware, versions and date.
      licences: Of each photograph.
    """

    network: str
    classes: tuple[str, ...]
    unit: float
    baseline: float
    made: str
    licences: list[str]


def page(examples: list[Explained], facts: Facts) -> str:
    """The page, in Markdown, with the pictures `NAME.png`."""
    parts = [
        f"# {len(examples)} photographs, explained",
        f"{facts.network}, {facts.made}. Written by `examples/pretrained/page.py`; "
        "[the example](../README.md) says how to run it.",
        _caption(examples, facts),
        "## Beyond the logits",
        _summary(examples, facts),
    ]
    for example, licence in zip(examples, facts.licences, strict=True):
        parts += _section(example, licence, facts.classes)
    return "\n\n".join(parts) + "\n"


def _caption(examples: list[Explained], facts: Facts) -> str:
    worst = max(examples, key=lambda e: abs(e.error))
    changes = [e.change for e in examples]
    percentile = f"{page_figures.PERCENTILE:g}th percentile"
    return f"""\
Every map explains the logit of the top class. A value is summed over the three colour
channels and divided by the map's scale, the {percentile} of its absolute values, which
is printed below it. Red is positive, blue is negative, and colours saturate at 1 and
-1. The smaller the absolute value, the more of the photograph, in pale grey, shows
through.

- **gradient**: derivative of the logit by the pixels. A unit of the network's inputs is
  {facts.unit:g} grey levels. Where it is red, a brighter pixel raises the logit.
- **SmoothGrad**: mean gradient of {SAMPLES} noisy copies; the standard
  deviation of the noise is {NOISE:g} of the largest minus the smallest input
  (seed {SEED}).
- **integrated gradients**: {STEPS} steps of Gauss-Legendre quadrature from a
  grey image (level {facts.baseline:.0f}). The sum over pixels should be the logit minus
  that of the grey image, {min(changes):.1f} to {max(changes):.1f} here. The
  completeness error is at most {abs(worst.error):.2g} logits in absolute value
  ({worst.name}).
- **Grad-CAM**: without the ReLU, so that it has a sign. The 7x7 cells are enlarged to
  the size of the photograph by cubic interpolation. They sum to the logit minus the
  bias of its class."""


def _summary(examples: list[Explained], facts: Facts) -> str:
    columns = (
        "gradients ~ logits",
        "rows ~ logits",
        "gradients ~ rows",
        "beyond rows",
        "shared gradients",
        "shared rows",
        "low gradients",
        "low rows",
    )
    rows = [
        f"| photograph | top class | {' | '.join(columns)} |",
        "| --- | --- |" + " ---: |" * len(columns),
    ]
    table = np.array([_measured(example) for example in examples])
    for example, numbers in zip(examples, table, strict=True):
        top = facts.classes[example.top]
        rows.append(f"| {example.name} | {top} | {_cells(numbers, '.0f')} |")
    rows.append(f"| mean | | {_cells(table.mean(0), '.1f')} |")
    classes = len(facts.classes)
    return f"""\
The similarity of class k to the top class y is the projection
`<a_k, a_y> / <a_y, a_y>` of its input gradient `a_k`. A forward pass, a VJP and its
transpose give that of all {classes:,} classes; the cosine would need the norm of the
gradient of each. The control compares the weight rows of the last layer in the same
way, and knows the image by its top class only. All numbers are over the {classes - 1}
other classes.

- **~**: Spearman's correlation of two of these: similarities by {GRADIENT},
  similarities by {ROWS}, and logits. **beyond rows**: partial rank correlation of
  gradients and logits, given rows.
- **shared**: how many of the {COUNT} most similar classes are among the {COUNT} highest
  logits; on average {COUNT**2 / (classes - 1):.1f} of {COUNT} that are drawn at random.
- **low**: how many of the {COUNT} most similar classes have a low logit, not among the
  {LOW} highest of {classes:,}: {COUNT * (classes - LOW) / (classes - 1):.1f} of {COUNT}
  that are drawn at random. Their ranks are bold in the tables below.

{chr(10).join(rows)}

{_reading(table)}"""


def _measured(example: Explained) -> tuple[float, ...]:
    """The numbers of a photograph, by the columns of the table."""
    by_gradient, by_rows = _comparisons(example)
    arrays = example.similarities, example.weight_rows, example.logits
    return (
        by_gradient.correlation,
        by_rows.correlation,
        comparison.correlation(*arrays),
        comparison.beyond(example.similarities, example.logits, example.weight_rows),
        by_gradient.shared,
        by_rows.shared,
        len(by_gradient.low),
        len(by_rows.low),
    )


def _cells(numbers: np.ndarray, counts: str) -> str:
    """Four correlations and the counts, in the given format."""
    return " | ".join(
        f"{number:{'+.2f' if place < 4 else counts}}"
        for place, number in enumerate(numbers)
    )


def _reading(table: np.ndarray) -> str:
    """What the table says, and no more."""
    rho, control, _, beyond, shared, shared_rows, low, low_rows = table.T
    return f"""\
With the logits, similarities by {GRADIENT} correlate by {rho.mean():+.2f} on average,
and those by {ROWS}, which do not see the image, by {control.mean():+.2f}; the first are
closer on {(rho > control).sum()} of {len(table)} photographs. Of the {COUNT} most
similar classes, {shared.mean():.1f} by {GRADIENT} and {shared_rows.mean():.1f} by
{ROWS} are among the {COUNT} highest logits. Given the {ROWS}, the correlation of
{GRADIENT} with the logits is {beyond.min():+.2f} to {beyond.max():+.2f}.

What the similarity says beyond the logits is which classes with a low logit are
similar: {low.mean():.1f} of {COUNT} by {GRADIENT}, {low_rows.mean():.1f} by {ROWS}.
These numbers do not say whether such a class is a plausible one for its photograph."""


def _section(example: Explained, licence: str, names: tuple[str, ...]) -> list[str]:
    """Heading, picture and table of a photograph."""
    probs, places = example.probs, comparison.ranks(example.logits)
    by_gradient, by_rows = _comparisons(example)
    highest = comparison.highest(example.logits, example.logits)

    def similar(compared: Comparison, values: np.ndarray, place: int) -> str:
        k = compared.similar[place]
        rank = f"**{places[k]}**" if k in compared.low else places[k]
        return f"{names[k]}: {values[k]:.2f} ({rank})"

    rows = [
        f"| | similar by {GRADIENT} | similar by {ROWS} | highest logits |",
        "| ---: | --- | --- | --- |",
    ]
    for place, k in enumerate(highest):
        gradient = similar(by_gradient, example.similarities, place)
        row = similar(by_rows, example.weight_rows, place)
        logit = f"{names[k]}: {percent(probs[k])}"
        rows.append(f"| {place + 1} | {gradient} | {row} | {logit} |")
    top = names[example.top]
    five = ", ".join(
        f"{names[k]} {percent(probs[k])}" for k in (example.top, *highest[:4])
    )
    return [
        f"## {example.name}",
        f"![{example.name} and maps of {top}]({example.name}.png)",
        f"Top five: {five}. Photograph: {licence}.",
        f"The other classes: their similarity to {top}, and in brackets the rank of "
        "their logit; of the highest logits, the probability.",
        "\n".join(rows),
    ]


def _comparisons(example: Explained) -> tuple[Comparison, Comparison]:
    return (
        comparison.compare(example.similarities, example.logits),
        comparison.compare(example.weight_rows, example.logits),
    )
