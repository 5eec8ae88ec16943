"""Figures of a run: curves, explanations and class similarity."""

import flax.linen as nn
import jax
import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax import cpu
from introspect_jax.binding import bind, for_pictures, needs, over_many
from introspect_jax.data.batches import padded_batches
from introspect_jax.errors import UserError
from introspect_jax.explain import class_similarity, render
from introspect_jax.models import last_layer, offers
from introspect_jax.report import explained
from introspect_jax.report.explained import Explained
from introspect_jax.restore import Run
from introspect_jax.train.devices import split
from introspect_jax.train.files import read_lines

# Images of a grid, a row each: what fits on a screen.
EXAMPLES = 4
MATRIX_IMAGES = 2000
# Inches of an image or a map, and of the lines of text above it.
_CELL = 1.6
_TITLE = 0.45


def draw_all(run: Run, workdir: epath.Path) -> None:
    """Draws every picture of a finished run into its folder."""
    render.save(curves(read_lines(workdir / "metrics.jsonl")), workdir / "curves.png")
    config = run.explain
    if missing := _missing(run.model, config):
        logging.warning(
            "explanations.png and class_similarity.png are left out: %s", missing
        )
        return
    pixels, labels = explained.choose(run, EXAMPLES)
    examples = explained.explain(run, pixels, labels, config)
    grid = explanations(examples, run.class_names, config)
    render.save(grid, workdir / "explanations.png")
    matrix = class_similarities(run, over_many(config))
    render.save(matrix, workdir / "class_similarity.png")


def check(model: nn.Module, config: ConfigDict) -> None:
    """Raises UserError if the network lacks a part that `config.explain` needs.

    Pictures that are drawn by default are left out instead.

    Args:
      model: The network.
      config: The whole config.
    """
    missing = _missing(model, for_pictures(config))
    if missing and (config.explain.explanation or config.explain.similarity):
        raise UserError(f"{missing}; choose another explanation for the pictures")


def _missing(model: nn.Module, config: ConfigDict) -> str:
    """A message on the missing parts of the network, empty if none is missing."""
    parts = [part for part in needs(config) if not offers(model, part)]
    if not parts:
        return ""
    return (
        f"the network offers no {' and no '.join(parts)}, which "
        f"explanation={config.explanation}, similarity={config.similarity} needs"
    )


def curves(records: list[dict]):
    """Loss, accuracy and the soft target over the steps, of `metrics.jsonl`."""

    def series(split_name: str, name: str):
        points = [
            (r["step"], r[name])
            for r in records
            if r["split"] == split_name and name in r
        ]
        return tuple(zip(*points, strict=True)) if points else ((), ())

    panels = [
        (
            "loss (nats)",
            [
                ("train", "loss", "training loss"),
                ("validation", "nll", "validation NLL"),
            ],
        ),
        (
            "accuracy",
            [
                ("train", "accuracy", "training (as augmented)"),
                ("validation", "top1", "validation"),
            ],
        ),
    ]
    # Hard labels have no entropy.
    if any(record.get("target_entropy", 0) > 0 for record in records):
        panels.append(
            (
                "soft target",
                [
                    ("train", "target_entropy", "entropy of the target (nats)"),
                    ("train", "distillation", "distance to it (nats)"),
                    ("train", "weight", "weight"),
                ],
            )
        )
    width = render.PAGE_WIDTH / 3
    figure, axes = render.new_figure(1, len(panels), (width * len(panels), 3.0))
    for axis, (title, lines) in zip(axes[0], panels, strict=True):
        for split_name, name, label in lines:
            steps, values = series(split_name, name)
            if steps:
                marker = "o" if split_name == "validation" else None
                axis.plot(steps, values, label=label, marker=marker, markersize=3)
        axis.set_xlabel("step")
        axis.set_ylabel(title)
        axis.grid(alpha=0.3)
        if axis.lines:  # a run may be too short to have logged anything
            axis.legend(fontsize=8)
    losses = [y for line in axes[0][0].lines for y in line.get_ydata()]
    # With a confidence penalty the loss may be negative.
    if min(losses, default=0.0) >= 0:
        axes[0][0].set_ylim(bottom=0)
    return figure


def explanations(
    examples: Explained,
    names: tuple[str, ...],
    config: ConfigDict,
    *,
    overlay: bool = False,
):
    """A grid: an image a row, the explanations of its label and the most similar.

    Args:
      examples: Explained images, about `EXAMPLES` of them.
      names: Of the classes.
      config: Config that they were explained with.
      overlay: Shows the explanation of the label over the image too.
    """
    first = 2 if overlay else 1
    rows, columns = len(examples.labels), first + examples.classes.shape[1]
    figure, axes = render.new_figure(rows, columns, _size(rows, columns))
    for row in range(rows):
        # One scale for each row, so that the maps of its classes can be compared.
        limit = render.signed_limit(examples.maps[row].sum(-1))
        render.draw_image(axes[row][0], examples.pixels[row])
        _image_title(axes[row][0], examples, row, names)
        if overlay:
            image, explanation = examples.pixels[row], examples.maps[row, 0]
            render.draw_overlay(axes[row][1], image, explanation, limit)
            axes[row][1].set_title("over the image", fontsize=9)
        for column, number in enumerate(examples.classes[row]):
            axis = axes[row][first + column]
            render.draw_signed(axis, examples.maps[row, column], limit)
            kind = "similar" if column else examples.kind
            similarity = examples.similarities[row, number]
            axis.set_title(
                f"{kind}: {render.shortened(names[number])}\n"
                f"similarity {similarity:.2f}",
                fontsize=9,
            )
    figure.suptitle(_caption(config), fontsize=10)
    return figure


def strip(examples: Explained, row: int, names: tuple[str, ...], config: ConfigDict):
    """One image and the explanations of all its explained classes, in lines of six."""
    cells = examples.classes.shape[1] + 1
    width = min(6, cells)
    lines = -(-cells // width)
    figure, axes = render.new_figure(lines, width, _size(lines, width))
    flat = axes.ravel()
    limit = render.signed_limit(examples.maps[row].sum(-1))
    render.draw_image(flat[0], examples.pixels[row])
    _image_title(flat[0], examples, row, names)
    for axis, number, explanation in zip(
        flat[1:cells], examples.classes[row], examples.maps[row], strict=True
    ):
        render.draw_signed(axis, explanation, limit)
        similarity = examples.similarities[row, number]
        axis.set_title(
            f"{render.shortened(names[number])}\n{similarity:.2f}", fontsize=9
        )
    for axis in flat[cells:]:
        axis.axis("off")
    figure.suptitle(_caption(config), fontsize=10)
    return figure


def _size(rows: int, columns: int) -> tuple[float, float]:
    """Inches of a grid of images, at most `render.PAGE_WIDTH` wide for 6 columns."""
    return _CELL * columns, (_CELL + _TITLE) * rows + 0.4


def _image_title(axis, examples: Explained, row: int, names: tuple[str, ...]) -> None:
    """The label, and the prediction with its probability."""
    guess = examples.probs[row].argmax()
    name = render.shortened(names[guess], 10)  # the probability is beside it
    predicted = f"{name} ({examples.probs[row, guess]:.2f})"
    if examples.kind != "label":
        file = "" if examples.files is None else str(examples.files[row])
        above = f"{render.shortened(file.rpartition('/')[2], 20)}\n" if file else ""
        axis.set_title(f"{above}says: {predicted}", fontsize=8.5)
        return
    right = guess == examples.labels[row]
    axis.set_title(
        f"label: {render.shortened(names[examples.labels[row]])}\n"
        f"{'right' if right else 'wrong'}: {predicted}",
        fontsize=8.5,
        color="black" if right else "firebrick",
    )


def _caption(config: ConfigDict) -> str:
    return (
        f"{config.explanation.replace('_', ' ')} of each class's logit (red: for it, "
        f"blue: against it); similarity: {config.similarity}"
    )


def class_similarities(run: Run, config: ConfigDict):
    """Mean similarity of every class to every label, and that of the last layer.

    The cosine between the classifier's weight rows does not depend on images, so it
    serves as a control. It is left out for networks without `last_layer`.

    Args:
      run: The restored run.
      config: Config with the explanation and the similarity.
    """
    config = ConfigDict(config.to_dict())
    if config.similarity == "dot":
        # Dot products have no scale that a cosine could be shown beside.
        config.similarity = "projection"
    means, count = _mean_similarities(run, config)
    words = f"{config.explanation.replace('_', ' ')}, {config.similarity}"
    panels = {f"explanations: {words}\nmean over {count:,} test images": means}
    if offers(run.model, "last_layer"):
        kernel = np.asarray(last_layer(run.model, run.variables)[0], np.float64)
        unit = kernel / np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)
        panels["classifier's weight rows, cosine"] = unit.T @ unit
    else:
        logging.warning(
            "class_similarity.png is without the classifier's weight rows: the network "
            "offers no last_layer"
        )
    return matrices(panels, run.class_names)


def matrices(panels: dict[str, np.ndarray], names: tuple[str, ...]):
    """Similarity matrices side by side, with one scale of colours.

    With more than `render.MOST_NAMES` classes, a second row of matrices shows the
    classes of the most similar pairs of the first matrix with their names.

    Args:
      panels: Title -> `[classes, classes]`.
      names: Of the classes.
    """
    limit = render.off_diagonal_limit(*panels.values())
    rows = [(np.arange(len(names)), "")]
    if len(names) > render.MOST_NAMES:
        chosen = render.most_similar_classes(next(iter(panels.values())))
        rows.append((chosen, f"the {len(chosen)} classes of the most similar pairs"))
    width, height = render.PAGE_WIDTH * (1 + len(panels)) / 3, 4.6 * len(rows) + 0.8
    figure, axes = render.new_figure(len(rows), len(panels), (width, height))
    for line, (classes, part) in zip(axes, rows, strict=True):
        shown = [names[number] for number in classes]
        for axis, (title, matrix) in zip(line, panels.items(), strict=True):
            square = matrix[np.ix_(classes, classes)]
            drawn = render.draw_matrix(axis, square, shown, part or title, limit)
    bar = figure.colorbar(drawn, ax=axes, location="bottom", shrink=0.6, aspect=40)
    bar.set_label("similarity (the diagonal is 1)")
    return figure


def _mean_similarities(run: Run, config: ConfigDict) -> tuple[np.ndarray, int]:
    """Means `[classes, classes]` by label over some test images, and their number.

    The row of a class without images in the sample is NaN, which is drawn white.
    """

    @cpu.jit
    def compute(x, y):
        bound = bind(config, run.model, run.variables, x)
        return class_similarity(
            run.logits_fn,
            x,
            y,
            bound.explanation,
            bound.similarity,
            key=jax.random.key(0),
            **bound.options,
        )

    classes, test = len(run.class_names), run.dataset.test
    total, count = np.zeros((classes, classes)), np.zeros(classes)
    chosen = np.random.RandomState(0).permutation(len(test))[:MATRIX_IMAGES]
    for pixels, labels, valid in padded_batches(
        test.subset(np.sort(chosen)),
        run.config.batch_size,  # training fitted into memory with it
    ):
        inputs = jax.device_put(run.preprocess(pixels), split(run.mesh))
        similarities = np.asarray(compute(inputs, labels), np.float64)
        np.add.at(total, labels[:valid], similarities[:valid])
        np.add.at(count, labels[:valid], 1)
    means = np.divide(
        total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0
    )
    return means, len(chosen)
