"""What does the soft target know? Class similarities against a teacher's responses."""

import datetime
import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from introspect_jax.errors import UserError
from introspect_jax.explain import render
from introspect_jax.explain.agreement import agreement_beyond, rank_agreement
from introspect_jax.explain.metrics import mean_interval
from introspect_jax.models import make_logits_fn
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.files import write_json, write_text
from introspect_jax.train.restore import Run, absolute, check_same_data, load_run
from introspect_jax.train.state import deployed_variables
from studies.forms import FORMS, OWN_LOGITS, WEIGHT_ROWS, controls

# Column -> what it says, each a rank correlation over the classes that are not the
# label.
COLUMNS = {
    "class": "class means, with those of the teacher's logits",
    "example": "each example, with the teacher's logits",
    "instance": "each example without the mean of its class, both sides",
    "beyond": "the same, given the network's own logits",
    "confusion": "class means, with the rows of the network's own confusion matrix",
    "confusion_example": "each example, with the row of the confusion matrix",
}
_BATCH = 100
# Drawn over training.
_DRAWN = (
    OWN_LOGITS,
    WEIGHT_ROWS,
    "gradient, projection",
    "gradient, cosine",
    "SmoothGrad 8, cosine",
    "Grad-CAM, cosine",
)
Row = dict[str, Any]
Function = Callable[..., jax.Array]


def agreement(
    workdir: str,
    teacher: str,
    output: epath.Path,
    *,
    num_images: int = 1000,
    data: str = "",
) -> list[Row]:
    """Writes `README.md`, `agreement.json` and `agreement.png`.

    Every checkpoint that the run kept is looked at.

    Args:
      workdir: a run, best with a large `checkpoints_kept`.
      teacher: another run on the same data.
      output: folder, made if need be.
      num_images: of the validation split, the first ones.
      data: what the page calls the data; by default its name and size.

    Returns:
      Rows of step and form, with a mean and a 95 % bootstrap interval a column.

    Raises:
      UserError: runs that cannot be read, or of other data, or a folder that cannot
        be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "README.md").touch()
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written: {error}"
        ) from error
    run = load_run(workdir)
    taught = load_run(teacher)
    check_same_data(run.experiment.config, taught.experiment.config, teacher)
    # Not of the test split: what is found here decides what is tried.
    validation = run.experiment.dataset.validation
    if not len(validation):
        raise UserError(
            f"the run {workdir!r} has no validation split (data.validation_fraction)"
        )
    pixels, labels = validation.take(np.arange(min(num_images, len(validation))))
    images = run.experiment.inputs(pixels)
    teacher_logits = jax.jit(_logits(taught.experiment.model))
    responses = _in_batches(teacher_logits, taught.variables, images)
    functions = _functions(run.experiment.model)
    top1 = float(np.mean(responses.argmax(-1) == labels))
    side = " x ".join(map(str, run.experiment.size))
    about = {
        "data": data or f"{run.experiment.config.data.name} at {side} pixels",
        "run": _describe(run),
        "teacher": _describe(taught) | {"top1_on_these": top1},
        "images": len(labels),
    }
    rows = []
    for step, variables in checkpoints(run, workdir):
        for name, scores in _measure(
            run.experiment.model, functions, variables, images, labels, responses
        ):
            rows.append({"step": step, "form": name} | scores)
    render.save(_figure(about, rows), output / "agreement.png", dpi=100)
    write_json(output / "agreement.json", about | {"rows": rows})
    write_text(output / "README.md", _page(about, rows))
    return rows


def checkpoints(run: Run, workdir: str) -> Iterator[tuple[int, Any]]:
    """Step and variables of every checkpoint that is kept, in order."""
    config = run.experiment.config
    kept = Checkpoints(absolute(workdir), config.checkpoints_kept)
    for step, state in kept.restore_all(run.experiment.abstract_state()):
        yield step, deployed_variables(run.experiment.method, state)
    kept.close()


def _logits(model: nn.Module) -> Function:
    return lambda variables, images: make_logits_fn(model, variables)(images)


def _functions(model: nn.Module) -> dict[str, Function]:
    """Form -> jitted `(variables, images, labels) -> similarities`; the logits too."""
    key = jax.random.key(0)
    functions: dict[str, Function] = {OWN_LOGITS: jax.jit(_logits(model))}
    for name, form in FORMS.items():
        functions[name] = jax.jit(
            lambda variables, images, labels, form=form: form(
                model, variables, images, labels, key
            )
        )
    return functions


def _measure(
    model: nn.Module,
    functions: dict[str, Function],
    variables: Any,
    images: jax.Array,
    labels: np.ndarray,
    responses: Any,
) -> Iterator[tuple[str, Row]]:
    """Form -> its row, for the network as it was at a step."""
    own = _in_batches(functions[OWN_LOGITS], variables, images)
    said = np.eye(own.shape[1])[own.argmax(-1)]
    one_hot = np.eye(own.shape[1])[labels]
    confusion = jnp.asarray(
        (one_hot.T @ said / np.maximum(one_hot.sum(0)[:, None], 1))[labels]
    )
    labels_of, theirs = jnp.asarray(labels), jnp.asarray(responses)
    found = controls(model, variables, jnp.asarray(own), labels_of)
    for name in FORMS:
        found[name] = jnp.asarray(
            _in_batches(functions[name], variables, images, labels_of)
        )
    top1 = float(np.mean(own.argmax(-1) == labels))
    for name, similarities in found.items():
        with_teacher = rank_agreement(similarities, theirs, labels_of)
        with_confusion = rank_agreement(similarities, confusion, labels_of)
        beyond = agreement_beyond(similarities, theirs, jnp.asarray(own), labels_of)
        columns = {
            **with_teacher,
            "beyond": beyond,
            "confusion": with_confusion["class"],
            "confusion_example": with_confusion["example"],
        }
        yield (
            name,
            {"top1": top1}
            | {c: mean_interval(columns[c], resamples=500) for c in COLUMNS},
        )


def _in_batches(function: Function, variables: Any, *arrays: jax.Array) -> np.ndarray:
    parts = [
        np.asarray(function(variables, *(a[start : start + _BATCH] for a in arrays)))
        for start in range(0, len(arrays[0]), _BATCH)
    ]
    return np.concatenate(parts)


def _describe(run: Run) -> Row:
    config = run.experiment.config
    return {
        "method": config.method.name,
        "model": config.model.name,
        "seed": config.seed,
        "training_images": len(run.experiment.dataset.train),
        "steps": config.total_steps,
        "state_sha256": run.state_sha256,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind.replace("cpu", "CPU"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _page(about: Row, rows: list[Row]) -> str:
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
        _words(final, weight_rows),
        "![over training](agreement.png)",
    ]
    return "\n\n".join(lines) + "\n"


def _words(final: list[Row], weight_rows: Row) -> str:
    """What follows, from the intervals."""
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
            f"- Above the weight rows on single examples: {listed(better)}.",
            f"- Say something right about the single example: {listed(specific)}.",
            f"- Say something wrong about the single example: {listed(against)}.",
            "- Know something of the teacher's responses that the network's own logits "
            f"do not: {listed(beyond)}.",
        ]
    )


def _shown(found: dict[str, float]) -> str:
    if math.isnan(found["mean"]):
        return "nothing"
    return f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def _figure(about: Row, rows: list[Row]):
    """Agreement with the teacher over training."""
    shown = ("class", "example", "instance", "beyond")
    figure, axes = render.new_figure(1, len(shown), (4.0 * len(shown), 4.0))
    for axis, column in zip(axes[0], shown, strict=True):
        for form in _DRAWN:
            found = [row for row in rows if row["form"] == form]
            steps = [row["step"] for row in found]
            low, mean, high = (
                np.array([row[column][part] for row in found], float)
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
    figure.suptitle(
        f"{about['data']}, {run['training_images']:,} training images, {run['model']}, "
        f"{run['method']}, seed {run['seed']} (one run); {about['images']:,} "
        f"validation images; {run['device']}, {run['date']}",
        fontsize=9,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=9)
    return figure
