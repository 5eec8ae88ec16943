"""Plots of explanations; matplotlib is only imported when a figure is created."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Red is evidence for the class, blue against it, white is neutral.
SIGNED_COLORS = "RdBu_r"
# Width of a figure in inches. On a page of 900 pixels, 9 points are then 12 pixels.
PAGE_WIDTH = 9.6
# Classes of a matrix whose names are legible where two matrices share that width.
MOST_NAMES = 20
# Classes of a matrix whose values are legible in its cells.
MOST_VALUES = 12


def new_figure(
    rows: int, columns: int, size: tuple[float, float], **options: Any
) -> tuple["Figure", Any]:
    """Creates a figure and axes `[rows, columns]`, without pyplot's global state."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ImportError(
            f'pictures need {error.name}: pip install "introspect-jax[train]"'
        ) from error

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


@runtime_checkable
class Writable(Protocol):
    """Output path: `pathlib.Path`, or a path of a library for other file systems."""

    def write_bytes(self, data: bytes) -> Any:
        """Writes the file."""


def save(figure: "Figure", path: Writable, dpi: int = 150) -> None:
    """Writes the figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    path.write_bytes(buffer.getvalue())


def signed_limit(maps: np.ndarray, percentile: float = 99.5) -> float:
    """Value at which colours saturate: a percentile, for robustness to outliers."""
    limit = float(np.percentile(np.abs(maps), percentile))
    return limit if limit > 0 else 1.0


def plain(text: str) -> str:
    """Text that matplotlib draws as it is: it takes dollar signs for formulas, and has
    no glyph for bytes of a file name that are not UTF-8."""
    return text.encode(errors="replace").decode().replace("$", r"\$")


def shortened(name: str, longest: int = 15) -> str:
    """The name of a class in a title or at an axis, cut off and escaped."""
    short = name if len(name) <= longest else f"{name[: longest - 1].rstrip()}…"
    return plain(short)


def draw_image(axes: "Axes", image: np.ndarray) -> None:
    """Draws a uint8 image `[h, w, 1 or 3]`."""
    axes.imshow(image.squeeze(-1) if image.shape[-1] == 1 else image, cmap="gray")
    axes.set_xticks([])
    axes.set_yticks([])


def draw_signed(axes: "Axes", explanation: np.ndarray, limit: float) -> None:
    """Draws an explanation `[h, w, c]`, summed over channels, with zero in white."""
    axes.imshow(explanation.sum(-1), cmap=SIGNED_COLORS, vmin=-limit, vmax=limit)
    axes.set_xticks([])
    axes.set_yticks([])


def draw_overlay(
    axes: "Axes", image: np.ndarray, explanation: np.ndarray, limit: float
) -> None:
    """Draws the explanation over the greyscale image; opacity grows with magnitude."""
    grey = image.astype(float).mean(-1)
    axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
    total = explanation.sum(-1)
    height, width = grey.shape
    axes.imshow(
        total,
        cmap=SIGNED_COLORS,
        vmin=-limit,
        vmax=limit,
        alpha=0.85 * np.clip(np.abs(total) / limit, 0, 1),
        extent=(-0.5, width - 0.5, height - 0.5, -0.5),  # maps may be coarser
    )
    axes.set_xticks([])
    axes.set_yticks([])


def off_diagonal_limit(*matrices: np.ndarray) -> float:
    """Value at which colours saturate: the largest absolute off-diagonal entry."""
    values = [m[~np.eye(len(m), dtype=bool)] for m in matrices]
    largest = float(np.nanmax(np.abs(np.concatenate(values))))
    return largest if largest > 0 else 1.0


def most_similar_classes(matrix: np.ndarray, count: int = MOST_NAMES) -> np.ndarray:
    """The classes of the most similar pairs, the most similar first.

    Args:
      matrix: Similarities `[classes, classes]`; NaN where one is unknown.
      count: Number of classes, at most that of the matrix.

    Returns:
      Class numbers `[count]`.
    """
    pairs = (matrix + matrix.T) / 2
    pairs = np.where(np.isnan(pairs), -np.inf, pairs)
    np.fill_diagonal(pairs, -np.inf)
    order = np.argsort(-pairs, axis=None, kind="stable")
    classes = np.stack(np.unravel_index(order, pairs.shape), axis=-1).ravel()
    _, first = np.unique(classes, return_index=True)
    return classes[np.sort(first)[:count]]


def draw_matrix(
    axes: "Axes",
    matrix: np.ndarray,
    names: Sequence[str],
    title: str,
    limit: float,
) -> Any:
    """Draws a similarity matrix `[classes, classes]`.

    Up to `MOST_NAMES` classes have their names at the axes, others their numbers; up to
    `MOST_VALUES` have their similarities in the cells.

    Returns the image, from which a colour bar can be made.
    """
    classes = len(names)
    drawn = axes.imshow(matrix, cmap=SIGNED_COLORS, vmin=-limit, vmax=limit)
    axes.set_title(title, fontsize=10)
    if classes > MOST_NAMES:
        axes.set_xlabel("class number")
        axes.set_ylabel("label (class number)")
        return drawn
    names = [shortened(name) for name in names]
    axes.set_xticks(range(classes), names, rotation=60, ha="right", fontsize=9)
    axes.set_yticks(range(classes), names, fontsize=9)
    axes.set_ylabel("label")
    if classes > MOST_VALUES:
        return drawn
    for row in range(classes):
        for column in range(classes):
            value = matrix[row, column] + 0.0
            shade = "white" if abs(value) > 0.6 * limit else "black"
            text = "" if np.isnan(value) else f"{value:.2f}".replace("-0.00", "0.00")
            axes.text(
                column, row, text, ha="center", va="center", fontsize=7, color=shade
            )
    return drawn
