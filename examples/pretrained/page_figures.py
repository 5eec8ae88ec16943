"""Pictures of the page: a photograph beside its maps, and its most similar classes."""

import io
import pathlib
from typing import TYPE_CHECKING, Any

import comparison
import numpy as np
from PIL import Image

from introspect_jax.explain import render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from photograph_maps import Explained

# Of the absolute values of a map: where its colours saturate.
PERCENTILE = 99.0
BAR_LABEL = "map / scale"
_HEIGHT = 2.2  # inches of a row
_COLOR = "#4a6fa5"
_CONTRAST = 0.5  # of the photograph below a map: blue and red are dark
_SHORT = 30  # letters of a name beside a bar


def row(example: "Explained") -> "Figure":
    """The photograph and its maps."""
    columns = 1 + len(example.maps)
    figure, axes = render.new_figure(1, columns, (render.PAGE_WIDTH, _HEIGHT))
    _draw_row(figure, axes[0], example)
    return figure


def row_with_classes(example: "Explained", names: tuple[str, ...]) -> "Figure":
    """The same above its highest probabilities and its most similar classes."""
    figure, _ = render.new_figure(1, 1, (render.PAGE_WIDTH, 4.7))
    figure.clear()
    above, below = figure.subfigures(2, 1, height_ratios=[_HEIGHT, 4.7 - _HEIGHT])
    _draw_row(above, above.subplots(1, 1 + len(example.maps)), example)
    left, right = below.subplots(1, 2)
    places = comparison.ranks(example.logits)
    highest = np.argsort(places)[: comparison.COUNT]
    _draw_bars(
        left,
        [names[k] for k in highest],
        example.probs[highest],
        [percent(example.probs[k]) for k in highest],
        "highest probabilities",
    )
    similar = comparison.highest(example.similarities, example.logits)
    _draw_bars(
        right,
        [names[k] for k in similar],
        example.similarities[similar],
        [f"{example.similarities[k]:.2f} ({places[k]})" for k in similar],
        f"similarity to {render.shortened(names[example.top])} (logit rank)",
    )
    return figure


def percent(share: float) -> str:
    """A probability in percent: one digit, or that it is smaller.

    >>> percent(0.3846), percent(0.0001)
    ('38.5 %', '< 0.1 %')
    """
    return f"{100 * share:.1f} %" if share >= 0.0005 else "< 0.1 %"


def save(figure: "Figure", path: pathlib.Path, dpi: int = 128) -> None:
    """Writes a figure as a PNG file of 256 colours, which is half as large.

    A quarter of them are those of the colour bar, which would become blurred otherwise.
    """
    from matplotlib import colormaps

    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    with Image.open(buffer) as image:
        whole = image.convert("RGB")
    own = np.reshape(whole.quantize(192).getpalette(), (-1, 3))[:192]
    shades = colormaps[render.SIGNED_COLORS](np.linspace(0, 1, 64), bytes=True)
    colors = np.concatenate([own, shades[:, :3]])
    colors[colors.min(-1) > 247] = 255  # the paper stays white
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors.astype(np.uint8).tobytes())
    few = whole.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG)
    few.save(path, optimize=True)


def scale(explanation: np.ndarray) -> float:
    """What a map `[h, w, 1]` is divided by to be drawn."""
    return render.signed_limit(explanation, PERCENTILE)


def _draw_row(figure: "Figure", axes: Any, example: "Explained") -> None:
    render.draw_image(axes[0], example.pixels)
    axes[0].set_title(example.name, fontsize=10)
    pale = 255 - _CONTRAST * (255.0 - example.pixels)
    for panel, (title, explanation) in zip(axes[1:], example.maps.items(), strict=True):
        limit = scale(explanation.values)
        render.draw_overlay(panel, pale, explanation.values, limit)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(f"scale {limit:.2g} {explanation.unit}", fontsize=9)
    colors = _mappable()
    bar = figure.colorbar(colors, ax=list(axes), pad=0.01, aspect=15, ticks=[-1, 0, 1])
    bar.set_label(BAR_LABEL, fontsize=9)
    bar.ax.tick_params(labelsize=9)


def _mappable() -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(-1, 1), render.SIGNED_COLORS)


def _draw_bars(
    axes: "Axes", names: list[str], values: np.ndarray, labels: list[str], title: str
) -> None:
    places = np.arange(len(names))
    axes.barh(places, values, color=_COLOR)
    axes.set_yticks(places, [render.shortened(n, _SHORT) for n in names], fontsize=9)
    axes.invert_yaxis()
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xticks([])
    axes.set_xlim(0, 1.35 * float(values.max()))
    for place, value, label in zip(places, values, labels, strict=True):
        axes.text(max(value, 0), place, f" {label}", va="center", fontsize=9)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
