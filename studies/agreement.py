"""Compares class similarities with the responses of a teacher."""

import datetime
import functools
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from introspect_jax import cpu
from introspect_jax.data.batches import in_batches
from introspect_jax.errors import UserError
from introspect_jax.explain import render
from introspect_jax.explain.agreement import agreement_beyond, rank_agreement
from introspect_jax.explain.metrics import mean_interval
from introspect_jax.models import make_logits_fn
from introspect_jax.paths import absolute
from introspect_jax.restore import Run, load
from introspect_jax.teacher_data import check_fits
from introspect_jax.train.files import write_json, write_text
from introspect_jax.train.restoring import Restorer
from introspect_jax.train.state import deployed_variables
from introspect_jax.train.trainer import build
from studies.forms import (
    FORMS,
    OWN_LOGITS,
    Function,
    compiled,
    controls,
)
from studies.pages.agreement import COLUMNS, Row, figure, page

_BATCH = 100


def agreement(
    workdir: str,
    teacher: str,
    output: epath.Path,
    *,
    num_images: int = 1000,
    data: str = "",
    data_dir: str | None = None,
) -> list[Row]:
    """Writes `README.md`, `agreement.json` and `agreement.png`.

    All checkpoints that the run kept are evaluated.

    Args:
      workdir: Folder of a run, preferably with a large `checkpoints_kept`.
      teacher: Folder of another run on the same data.
      output: Folder of the results; it is created if it does not exist.
      num_images: Number of images, the first of the validation split.
      data: Description of the data on the page; by default their name and size.
      data_dir: Where the data of the run lie now, if they were moved.

    Returns:
      A row for each step and form, with a mean and a 95 % bootstrap interval for each
      column.

    Raises:
      UserError: A run cannot be read, the runs have different data, or the folder
        cannot be written.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        (output / "README.md").touch()
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written: {error}"
        ) from error
    # On one device: the batch of the run need not be one that all could share.
    run = load(workdir, devices=jax.local_devices()[:1], data_dir=data_dir)
    taught = load(teacher, devices=jax.local_devices()[:1])
    check_fits(run.config, taught.config, absolute(teacher), run.dataset)
    pixels, labels = _examples(run, workdir, num_images)
    images = run.preprocess(pixels)
    teacher_logits = cpu.jit(_logits(taught.model))
    respond = functools.partial(teacher_logits, taught.variables)
    responses = in_batches(respond, _BATCH, images)
    functions = {OWN_LOGITS: cpu.jit(_logits(run.model)), **compiled(run.model, FORMS)}
    top1 = float(np.mean(responses.argmax(-1) == labels))
    side = " x ".join(map(str, run.preprocess.size))
    about = {
        "data": data or f"{run.config.data.name} at {side} pixels",
        "run": _describe(run),
        "teacher": _describe(taught) | {"top1_on_these": top1},
        "images": len(labels),
    }
    rows = []
    for step, variables in checkpoints(run, workdir):
        for name, scores in _measure(
            run.model, functions, variables, images, labels, responses
        ):
            rows.append({"step": step, "form": name} | scores)
    render.save(figure(about, rows), output / "agreement.png", dpi=100)
    write_json(output / "agreement.json", about | {"rows": rows})
    write_text(output / "README.md", page(about, rows))
    return rows


def _examples(run: Run, workdir: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and labels of the validation split, since the results guide choices.

    Raises:
      UserError: The run has no validation split.
    """
    validation = run.dataset.validation
    if not len(validation):
        raise UserError(
            f"the run {workdir!r} has no validation split (data.validation_fraction)"
        )
    return validation.take(np.arange(min(count, len(validation))))


def checkpoints(run: Run, workdir: str) -> Iterator[tuple[int, Any]]:
    """Step and variables of every checkpoint of the run, in order."""
    trainer = build(run.config, run.dataset, jax.local_devices()[:1])
    kept = Restorer(absolute(workdir))
    for step, state in kept.restore_all(trainer.abstract_state()):
        yield step, deployed_variables(trainer.method, state)
    kept.close()


def _logits(model: nn.Module) -> Function:
    return lambda variables, images: make_logits_fn(model, variables)(images)


def _measure(
    model: nn.Module,
    functions: dict[str, Function],
    variables: Any,
    images: jax.Array,
    labels: np.ndarray,
    responses: Any,
) -> Iterator[tuple[str, Row]]:
    """Pairs of a form and its row, for the variables of one step."""
    functions = {n: functools.partial(f, variables) for n, f in functions.items()}
    own = in_batches(functions[OWN_LOGITS], _BATCH, images)
    predicted = np.eye(own.shape[1])[own.argmax(-1)]
    one_hot = np.eye(own.shape[1])[labels]
    confusion = jnp.asarray(
        (one_hot.T @ predicted / np.maximum(one_hot.sum(0)[:, None], 1))[labels]
    )
    classes, responses = jnp.asarray(labels), jnp.asarray(responses)
    by_name = controls(model, variables, jnp.asarray(own), classes)
    for name in FORMS:
        by_name[name] = jnp.asarray(
            in_batches(functions[name], _BATCH, images, classes)
        )
    top1 = float(np.mean(own.argmax(-1) == labels))
    for name, similarities in by_name.items():
        with_teacher = rank_agreement(similarities, responses, classes)
        with_confusion = rank_agreement(similarities, confusion, classes)
        beyond = agreement_beyond(similarities, responses, jnp.asarray(own), classes)
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


def _describe(run: Run) -> Row:
    config = run.config
    return {
        "method": config.method.name,
        "model": config.model.name,
        "seed": config.seed,
        "training_images": len(run.dataset.train),
        "steps": config.total_steps,
        "state_sha256": run.state_sha256,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind.replace("cpu", "CPU"),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
