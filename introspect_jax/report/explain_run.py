"""The explanations of a network: pictures, raw maps and a table of metrics."""

import math
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from introspect_jax.binding import needs, takes_baselines
from introspect_jax.data.listing import list_images, read_image, warn_of
from introspect_jax.errors import UserError, nearest
from introspect_jax.explain import render
from introspect_jax.models.protocol import check_offers
from introspect_jax.paths import absolute
from introspect_jax.report import explained, figures
from introspect_jax.report.measures import measure
from introspect_jax.restore import Run
from introspect_jax.train.files import write_json
from introspect_jax.trained import Trained

STRIPS = 4
STRIP_CLASSES = 23


def explain_run(
    net: Trained,
    config: ConfigDict,
    output: epath.Path,
    *,
    num_examples: int = 16,
    metric_images: int = 64,
    images: str | None = None,
    target: str | None = None,
) -> list[dict[str, Any]]:
    """Writes pictures, `maps.npz` and `metrics.json`.

    The pictures: `explanations_<i>.png`, grids of four images each; `strip_<i>.png`,
    all classes of one image (of many classes, the most similar); for a run with test
    images `class_similarity.png`, the matrix over them.

    Args:
      net: A restored run, of `restore.load`, or with `images` any network, of
        `pretrained.load`.
      config: Config with the fields of `binding.default_config`.
      output: Folder of the results; it is created if it does not exist.
      num_examples: Number of test images in the pictures and the raw maps.
      metric_images: Number of images for the metrics; 0 for no metrics.
      images: Folder of images to explain instead of test images. Their labels are
        unknown, so the predicted classes are explained.
      target: Name or number of the class to explain instead, with `images`.

    Returns:
      The rows of the table.

    Raises:
      UserError: There are no images or no such class, or the folder cannot be written.
    """
    # What is asked for is checked before anything is computed or written.
    chosen = None if target is None else class_number(target, net.class_names)
    for part in needs(config):
        check_offers(net.model, part, f"explanation={config.explanation}")
    labels: np.ndarray | None = None
    files, kind = None, "target"
    if images:
        files, pixels = read_folder(images, net)
        if chosen is not None:
            labels = np.full(len(pixels), chosen)
    elif isinstance(net, Run) and chosen is None:
        pixels, labels = explained.choose(net, num_examples)
        kind = "label"
    else:
        raise UserError("--images is missing, the folder of what is to be explained")
    if takes_baselines(config) and len(pixels) < 2:
        where = "--images" if images else "--num_examples"
        raise UserError(
            f"explanation={config.explanation} takes other images for baselines: "
            f"{where} must give at least 2, got {len(pixels)}"
        )
    _check_output(output)
    examples = explained.explain(net, pixels, labels, config, kind=kind, files=files)
    _draw(net, config, examples, pixels, output)
    if isinstance(net, Run):
        matrix = figures.class_similarities(net, config)
        render.save(matrix, output / "class_similarity.png")
    _write_maps(examples, net, output)
    measured, labels = pixels[:metric_images], examples.labels[:metric_images]
    if isinstance(net, Run) and not images:
        test = net.dataset.test
        order = np.random.RandomState(net.config.seed).permutation(len(test))
        measured, labels = test.take(np.sort(order[:metric_images]))
    rows = measure(net, config, measured, labels, pixels) if metric_images else []
    table = {"explanation": config.explanation, "images": len(measured)}
    write_json(output / "metrics.json", table | {"rows": [_finite(r) for r in rows]})
    return rows


def _finite(row: dict[str, Any]) -> dict[str, Any]:
    """The row with null for numbers that JSON does not have."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in row.items()
    }


def _write_maps(
    examples: explained.Explained, net: Trained, output: epath.Path
) -> None:
    """Writes `maps.npz`."""
    arrays: dict[str, Any] = {
        "pixels": examples.pixels,
        "labels": examples.labels,
        "labels_are_known": examples.kind == "label",
        "probabilities": examples.probs,
        "similarities": examples.similarities,
        "explained_classes": examples.classes,
        "maps": examples.maps,
        "class_names": np.asarray(net.class_names),
    }
    if examples.files is not None:
        arrays["files"] = examples.files
    with (output / "maps.npz").open("wb") as file:
        np.savez_compressed(file, **arrays)


def class_number(target: str, names: tuple[str, ...]) -> int:
    """The number of a class by its name, or by its number if there is no such name.

    Raises:
      UserError: There is no such class, or several have the name.
    """
    found = [number for number, name in enumerate(names) if name == target]
    if len(found) > 1:
        numbers = ", ".join(map(str, found))
        raise UserError(
            f"--target {target!r} is the name of several classes; give a number: "
            f"{numbers}"
        )
    if not found and target.isdecimal() and int(target) < len(names):
        found = [int(target)]
    if not found:
        raise UserError(
            f"--target: no class {target!r}{nearest(target, names)}; give one of the "
            f"{len(names)} names, or a number from 0 to {len(names) - 1}"
        )
    return found[0]


def _check_output(output: epath.Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "metrics.json").write_text("")
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written: {error}"
        ) from None


def _draw(
    net: Trained,
    config: ConfigDict,
    examples: explained.Explained,
    pixels: np.ndarray,
    output: epath.Path,
) -> None:
    """Draws the grids and the strips."""
    names = net.class_names
    for number, first in enumerate(range(0, len(pixels), figures.EXAMPLES)):
        part = examples.part(slice(first, first + figures.EXAMPLES))
        grid = figures.explanations(part, names, config, overlay=True)
        render.save(grid, output / f"explanations_{number}.png")
    all_classes = explained.explain(
        net,
        pixels[:STRIPS],
        examples.labels[:STRIPS],
        config,
        neighbours=STRIP_CLASSES - 1,
        kind=examples.kind,
        files=examples.files,
        others=pixels,
    )
    for row in range(len(all_classes.labels)):
        strip = figures.strip(all_classes, row, names, config)
        render.save(strip, output / f"strip_{row}.png")


def read_folder(path: str, net: Trained) -> tuple[np.ndarray, np.ndarray]:
    """All images below a folder, as the network's own images are read.

    Returns:
      Names of the files below the folder, `[images]`, and pixels `[images, h, w, c]`.

    Raises:
      UserError: No such folder, no images, one that cannot be read, or a network for
        images of another kind.
    """
    shape = net.image_shape
    if net.dtype != "uint8":
        raise UserError(
            "--images are pictures of 8 bits, and the network was trained on "
            f"{net.dtype} images in units of their own; call its logits_fn on such "
            "arrays instead (restore.load, pretrained.load)"
        )
    folder = absolute(path)
    if not folder.is_dir():
        raise UserError(f"--images: no folder {path!r}")
    listing = list_images(folder)
    if not listing.images:
        raise UserError(f"--images: {path!r} has no images (PNG, JPEG, GIF or BMP)")
    warn_of(listing.left_out)
    images = [
        read_image(p, shape[2], shape[:2], net.resize) for p in listing.images.values()
    ]
    return np.asarray([*listing.images]), np.stack(images)


def show(rows: list[dict[str, Any]], output: epath.Path) -> None:
    """Prints the table, if there are metrics, and where the files are."""
    table = Table(title="metrics of the explanations")
    for column in ("metric", "mean", "95 % interval", "count"):
        left = column == "metric"
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        mean, count = f"{row['mean']:.3f}", str(row["count"])
        table.add_row(row["metric"], mean, interval, count)
    console = Console(highlight=False)
    if rows:
        console.print(table)
    console.print(
        f"{output}: pictures, maps.npz and metrics.json", markup=False, soft_wrap=True
    )
