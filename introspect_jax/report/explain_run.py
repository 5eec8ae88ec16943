"""The explanations of a trained run: pictures, raw maps and a table of metrics."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from introspect_jax import cpu
from introspect_jax.binding import bind
from introspect_jax.data.listing import list_images, read_image, warn_of
from introspect_jax.errors import UserError
from introspect_jax.explain import (
    agreement,
    class_similarity,
    explain_fn,
    metrics,
    render,
)
from introspect_jax.explain.stability import parameter_paths
from introspect_jax.models import last_layer, make_logits_fn, offers
from introspect_jax.paths import absolute
from introspect_jax.report import explained, figures
from introspect_jax.restore import Run
from introspect_jax.train.files import write_json

STRIPS = 4
STRIP_CLASSES = 23


def explain_run(
    run: Run,
    config: ConfigDict,
    output: epath.Path,
    *,
    num_examples: int = 16,
    metric_images: int = 64,
    images: str | None = None,
) -> list[dict[str, Any]]:
    """Writes pictures, `maps.npz` and `metrics.json`.

    The pictures: `explanations_<i>.png`, grids of four images each; `strip_<i>.png`,
    all classes of one image (of many classes, the most similar);
    `class_similarity.png`, the matrix over test images.

    Args:
      run: The restored run, of `restore.load`.
      config: Config with the fields of `binding.default_config`.
      output: Folder of the results; it is created if it does not exist.
      num_examples: Number of test images in the pictures and the raw maps.
      metric_images: Number of test images for the metrics.
      images: Folder of images to explain instead of test images. Their labels are
        unknown, so the predicted classes are explained.

    Returns:
      The rows of the table.

    Raises:
      UserError: There are no images, or the folder cannot be written.
    """
    if images:
        pixels = read_folder(images, run)
        labels, metric_pixels = None, pixels[:metric_images]
        metric_labels = explained.predict(run, metric_pixels).argmax(-1)
    else:
        pixels, labels = explained.choose(run, num_examples)
        test = run.dataset.test
        order = np.random.RandomState(run.config.seed).permutation(len(test))
        metric_pixels, metric_labels = test.take(np.sort(order[:metric_images]))
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "metrics.json").write_text("")
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written: {error}"
        ) from None

    names = run.class_names
    examples = explained.explain(run, pixels, labels, config)
    for number, first in enumerate(range(0, len(pixels), figures.EXAMPLES)):
        part = examples.part(slice(first, first + figures.EXAMPLES))
        grid = figures.explanations(part, names, config, overlay=True)
        render.save(grid, output / f"explanations_{number}.png")
    some = slice(0, min(STRIPS, len(pixels)))
    all_classes = explained.explain(
        run,
        pixels[some],
        None if labels is None else labels[some],
        config,
        neighbours=STRIP_CLASSES - 1,
    )
    for row in range(len(all_classes.labels)):
        strip = figures.strip(all_classes, row, names, config)
        render.save(strip, output / f"strip_{row}.png")
    matrix = figures.class_similarities(run, config)
    render.save(matrix, output / "class_similarity.png")
    with (output / "maps.npz").open("wb") as file:
        np.savez_compressed(
            file,
            pixels=examples.pixels,
            labels=examples.labels,
            labels_are_known=examples.known,
            probabilities=examples.probs,
            similarities=examples.similarities,
            explained_classes=examples.classes,
            maps=examples.maps,
            class_names=np.asarray(names),
        )
    rows = measure(run, config, metric_pixels, metric_labels)
    table = {"explanation": config.explanation, "images": len(metric_pixels)}
    write_json(output / "metrics.json", table | {"rows": rows})
    return rows


def measure(
    run: Run, config: ConfigDict, pixels: np.ndarray, labels: np.ndarray
) -> list[dict[str, Any]]:
    """Metrics of the explanations of the labels: name, mean, 95 % interval, count."""
    key = jax.random.key(run.config.seed)
    untrained = run.untrained(jax.random.key(2**31 - 1))
    scores = functools.partial(
        _scores, config, run.model, run.variables, untrained, key=key
    )
    columns = jax.device_get(cpu.jit(scores)(run.preprocess(pixels), labels))
    return [
        {"metric": name} | metrics.mean_interval(column)
        for name, column in sorted(columns.items())
    ]


def _scores(config, model, variables, untrained, x, y, *, key):
    """Name -> scores `[images]` of the explanations of the labels."""
    logits_fn = make_logits_fn(model, variables)
    bound = bind(config, model, variables, x)
    execution = bound.options | {"key": key}
    maps = explain_fn(logits_fn, x, y, bound.explanation, **execution)
    large = maps
    if maps.shape[1:3] != x.shape[1:3]:
        # Coarser maps, such as Grad-CAM's, are enlarged to rank the pixels.
        sized = (len(x), *x.shape[1:3], maps.shape[-1])
        large = jax.image.resize(maps, sized, "nearest")
    values = {
        "deletion": metrics.deletion(logits_fn, x, y, large),
        "insertion": metrics.insertion(logits_fn, x, y, large),
        "random-logit similarity": metrics.random_logit_similarity(
            logits_fn, x, y, bound.explanation, class_key=key, **execution
        ),
        "max-sensitivity": metrics.max_sensitivity(
            logits_fn, x, y, bound.explanation, noise_key=key, **execution
        ),
    }
    baseline = getattr(bound.explanation, "baseline", None)
    if baseline is not None:
        values["completeness error"] = jnp.abs(
            metrics.completeness_error(logits_fn, x, y, maps, baseline=baseline)
        )
    steps = {"network": list(variables)}
    if offers(model, "last_layer"):
        steps = {
            "last layer": _paths_of(variables, last_layer(model, variables))
        } | steps
    randomised = metrics.parameter_randomisation(
        lambda network, images: make_logits_fn(model, network)(images),
        x,
        y,
        lambda network: bind(config, model, network, x).explanation,
        params=variables,
        random_params=untrained,
        layers=list(steps.values()),
        **execution,
    )
    for name, column in zip(steps, randomised, strict=True):
        values[f"randomised {name}, rank correlation"] = column
    similar = class_similarity(
        logits_fn, x, y, bound.explanation, bound.similarity, **execution
    )
    agreed = agreement.rank_agreement(similar, logits_fn(x), y)
    values["rank agreement with the logits, examples"] = agreed["example"]
    values["rank agreement with the logits, classes"] = agreed["class"]
    return values


def _paths_of(variables, arrays) -> list[str]:
    """Paths of the variables that are among the arrays."""
    leaves = jax.tree.leaves(variables)
    return [
        path
        for path, leaf in zip(parameter_paths(variables), leaves, strict=True)
        if any(leaf is array for array in arrays)
    ]


def read_folder(path: str, run: Run) -> np.ndarray:
    """All images below a folder, as the run's own images are read.

    Raises:
      UserError: No such folder, no images, one that cannot be read, or a run on images
        of another kind.
    """
    shape = run.image_shape
    if run.dtype != "uint8":
        raise UserError(
            f"--images are pictures of 8 bits, and this run was trained on {run.dtype} "
            "images in units of their own; call run.logits_fn on such arrays instead "
            "(introspect_jax.restore.load)"
        )
    folder = absolute(path)
    if not folder.is_dir():
        raise UserError(f"--images: no folder {path!r}")
    listing = list_images(folder)
    if not listing.images:
        raise UserError(f"--images: {path!r} has no images (PNG, JPEG, GIF or BMP)")
    warn_of(listing.left_out)
    images = [read_image(p, shape[2], shape[:2]) for p in listing.images.values()]
    return np.stack(images)


def show(rows: list[dict[str, Any]], output: epath.Path) -> None:
    """Prints the table."""
    table = Table(title="explanations of the labels")
    for column in ("metric", "mean", "95 % interval", "count"):
        left = column == "metric"
        table.add_column(column, justify="left" if left else "right")
    for row in rows:
        interval = f"{row['low']:.3f} .. {row['high']:.3f}"
        mean, count = f"{row['mean']:.3f}", str(row["count"])
        table.add_row(row["metric"], mean, interval, count)
    console = Console(highlight=False)
    console.print(table)
    console.print(
        f"{output}: pictures, maps.npz and metrics.json", markup=False, soft_wrap=True
    )
