"""The pictures in a work folder."""

from typing import Any

import jax
import numpy as np
from etils import epath

from introspect_jax.data.augment import center_crop, normalize
from introspect_jax.data.batches import padded_batches
from introspect_jax.explain import render
from introspect_jax.explain.attribution import explain_fn
from introspect_jax.explain.similarity import class_similarity
from introspect_jax.models import make_logits_fn
from introspect_jax.train.experiment import Experiment
from introspect_jax.train.files import read_lines
from introspect_jax.train.parallel import split

EXAMPLES = 6
NEIGHBOURS = 3
MATRIX_IMAGES = 2000


def draw_all(experiment: Experiment, variables: Any, workdir: epath.Path) -> list[str]:
    """Draws every picture of a finished run; returns their file names."""
    drawn = {
        "curves.png": curves(read_lines(workdir / "metrics.jsonl")),
        "explanations.png": explanations(experiment, variables),
        "class_similarity.png": class_similarities(experiment, variables),
    }
    for name, figure in drawn.items():
        render.save(figure, workdir / name)
    return list(drawn)


def curves(records: list[dict]):
    """Loss, accuracy and the soft target over the steps, of `metrics.jsonl`."""

    def series(split_name: str, name: str):
        found = [
            (r["step"], r[name])
            for r in records
            if r["split"] == split_name and name in r
        ]
        return tuple(zip(*found, strict=True)) if found else ((), ())

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
    if any("target_entropy" in record for record in records):
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
    figure, axes = render.new_figure(1, len(panels), (4.2 * len(panels), 3.4))
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
    axes[0][0].set_ylim(bottom=0)
    return figure


def explanations(experiment: Experiment, variables: Any):
    """Test images, some wrongly classified where there are any, and their maps.

    Which ones depends on the seed alone. Beside each image: the explanation of its
    label, then those of the classes whose explanations are most similar.
    """
    options = _options(experiment)
    logits_fn = make_logits_fn(experiment.model, variables)
    generator = np.random.RandomState(experiment.config.seed)
    test = experiment.dataset.test
    looked_at = np.sort(generator.permutation(len(test))[: 4 * EXAMPLES * 10])
    pixels, labels = test.take(looked_at)
    inputs = _inputs(experiment, pixels)
    probs = np.asarray(jax.jit(lambda x: jax.nn.softmax(logits_fn(x)))(inputs))
    wrong = probs.argmax(-1) != labels
    order = generator.permutation(len(labels))
    chosen = order[wrong[order]][: EXAMPLES // 2]
    chosen = np.concatenate(
        [chosen, order[~wrong[order]][: EXAMPLES - len(chosen)]]
    ).astype(int)
    pixels, labels, probs = pixels[chosen], labels[chosen], probs[chosen]
    inputs = inputs[chosen]

    similarities = np.asarray(
        jax.jit(lambda x, y: class_similarity(logits_fn, x, y, **options))(
            inputs, labels
        )
    )
    others = np.where(
        np.arange(similarities.shape[1]) == labels[:, None], -np.inf, similarities
    )
    nearest = np.argsort(-others, axis=-1)[:, : min(NEIGHBOURS, others.shape[1] - 1)]
    targets = np.concatenate([labels[:, None], nearest], axis=1)
    maps = np.asarray(
        jax.jit(lambda x, t: explain_fn(logits_fn, x, t, method=options["method"]))(
            inputs, targets
        )
    )

    names = tuple(render.plain(n) for n in experiment.dataset.class_names)
    rows, columns = len(chosen), 1 + targets.shape[1]
    figure, axes = render.new_figure(rows, columns, (2.1 * columns, 2.25 * rows))
    shown = center_crop(pixels, experiment.size)
    for row in range(rows):
        guess = probs[row].argmax()
        verdict = "right" if guess == labels[row] else "wrong"
        render.draw_image(axes[row][0], shown[row])
        axes[row][0].set_title(
            f"label: {names[labels[row]]}\nsays: {names[guess]} "
            f"({probs[row, guess]:.2f}), {verdict}",
            fontsize=8,
            color="black" if verdict == "right" else "firebrick",
        )
        # One scale a row: how strong the classes speak can be compared.
        limit = render.signed_limit(maps[row].sum(-1))
        for column, target in enumerate(targets[row]):
            axis = axes[row][column + 1]
            render.draw_signed(axis, maps[row, column], limit)
            similarity = similarities[row, target]
            kind = "label" if column == 0 else "similar"
            axis.set_title(
                f"{kind}: {names[target]}\nsimilarity {similarity:.2f}", fontsize=8
            )
    figure.suptitle(
        f"{options['method'].replace('_', ' ')} of each class's logit (red: for it, "
        f"blue: against it); {options['similarity']}",
        fontsize=10,
    )
    return figure


def class_similarities(experiment: Experiment, variables: Any):
    """Mean similarity of every class to every label, beside the last layer's own.

    The cosine between the classifier's weight rows knows no image: what the
    explanations say beyond it is what explaining adds.
    """
    options = _options(experiment)
    logits_fn = make_logits_fn(experiment.model, variables)
    compute = jax.jit(lambda x, y: class_similarity(logits_fn, x, y, **options))
    classes = experiment.dataset.num_classes
    total, count = np.zeros((classes, classes)), np.zeros(classes)
    test = experiment.dataset.test
    wanted = np.random.RandomState(0).permutation(len(test))[:MATRIX_IMAGES]
    subset = test.subset(np.sort(wanted))
    for pixels, labels, valid in padded_batches(
        subset, experiment.config.eval_batch_size
    ):
        inputs = jax.device_put(_inputs(experiment, pixels), split(experiment.mesh))
        found = np.asarray(compute(inputs, labels), np.float64)
        np.add.at(total, labels[:valid], found[:valid])
        np.add.at(count, labels[:valid], 1)
    # A class without an image in the sample has no row: left white.
    means = np.divide(
        total, count[:, None], out=np.full_like(total, np.nan), where=count[:, None] > 0
    )
    kernel = np.asarray(variables["params"]["head"]["kernel"], np.float64)
    unit = kernel / np.maximum(np.linalg.norm(kernel, axis=0), 1e-12)

    rows = unit.T @ unit
    limit = render.off_diagonal_limit(means, rows)
    side = render.matrix_side(classes)
    figure, axes = render.new_figure(1, 2, (2 * side + 1.0, side + 0.2))
    for axis, matrix, title in (
        (
            axes[0][0],
            means,
            f"explanations: {options['method'].replace('_', ' ')}, "
            f"{options['similarity']}, mean over {len(subset):,} test images",
        ),
        (axes[0][1], rows, "classifier's weight rows, cosine"),
    ):
        drawn = render.draw_matrix(
            axis, matrix, experiment.dataset.class_names, title, limit
        )
    bar = figure.colorbar(drawn, ax=axes, shrink=0.8, pad=0.02)
    bar.set_label("similarity (the diagonal is 1)")
    return figure


def _options(experiment: Experiment) -> dict[str, Any]:
    """What the run explained itself with; the defaults, for other methods."""
    config = experiment.config.method.introspective
    return {
        "method": config.explanation,
        "similarity": config.similarity,
        "center": config.center,
    }


def _inputs(experiment: Experiment, pixels: np.ndarray) -> jax.Array:
    data = experiment.config.data
    return center_crop(normalize(pixels, data.mean, data.std), experiment.size)
