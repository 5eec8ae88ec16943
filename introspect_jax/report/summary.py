"""`summary.json` of a run: its scores, what it was run on, and the tables shown."""

import datetime
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from introspect_jax import processes
from introspect_jax.data.sources import Dataset
from introspect_jax.evaluate import (
    fit_temperature,
    floor_scores,
    scaled_scores,
    summarize,
)
from introspect_jax.machine import describe_device, describe_versions
from introspect_jax.train.loop import Result
from introspect_jax.train.trainer import Trainer

Scores = dict[str, Any]
Columns = dict[str, tuple[str, float, str]]


def summarize_run(
    name: str, trainer: Trainer, dataset: Dataset, result: Result, last: Any, best: Any
) -> dict[str, Any]:
    """Scores the networks and returns the content of `summary.json`.

    Every process calls it. The test split is read here, once for each network, after
    every choice has been made.

    Args:
      name: Of the config.
      trainer: Of the run.
      dataset: Its data.
      result: Of its training.
      last: Variables of the network after the last step.
      best: Of that which was best on validation; `last` itself if it was the last.
    """
    of_last = _score(trainer, dataset, last)
    of_best = of_last if best is last else _score(trainer, dataset, best)
    scores = {"last": of_last, "best": of_best}
    config = trainer.config
    return {
        "name": name,
        "method": config.method.name,
        "seed": config.seed,
        "test": {which: scores[which]["test"] for which in scores}
        if config.evaluate_test
        else None,
        # What was recorded on the way was also what the best network was chosen by.
        "validation": {
            which: scores[which]["validation"] | result.validation[which]
            for which in scores
        }
        if result.validation
        else None,
        "steps": {"last": config.total_steps, "best": result.best_step},
        "seconds": round(result.seconds, 2),
        "examples": dataset.describe()["examples"],
        "classes": dataset.describe_classes(),
        "data_sha256": dataset.identity.sha256,
        "state_sha256": result.state_sha256,
        "versions": describe_versions(),
        "device": describe_device(trainer.parallel.mesh.size),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(last["params"])),
    }


def _score(trainer: Trainer, dataset: Dataset, variables: Any) -> dict[str, Scores]:
    """Split -> scores of a network.

    With a validation split its temperature is fitted there, and both splits have scores
    at that temperature; those of the validation split are in-sample.
    """
    splits = {"validation": dataset.validation} if len(dataset.validation) else {}
    scaled = bool(splits)
    if trainer.config.evaluate_test:
        splits["test"] = dataset.test
    scores: dict[str, Scores] = {}
    for split, source in splits.items():
        examples = trainer.evaluator.examples(variables, source, logits=scaled)
        scores[split] = summarize(examples) | floor_scores(examples["confidence"])
        if split == "validation":
            temperature = fit_temperature(examples["logits"], examples["label"])
        if scaled:
            scores[split] |= scaled_scores(examples, temperature)
    return scores


_SCORES: Columns = {
    "top-1 %": ("top1", 100, ".2f"),
    "top-5 %": ("top5", 100, ".2f"),
    "NLL": ("nll", 1, ".4f"),
    "ECE %": ("ece", 100, ".2f"),
}
# Headings of two lines keep this table within 80 columns.
_CALIBRATION: Columns = {
    "conf -\nacc %": ("overconfidence", 100, "+.2f"),
    "ECE\n%": ("ece", 100, ".2f"),
    "floor\n%": ("ece_floor", 100, ".2f"),
}
_SCALED: Columns = {
    "T": ("temperature", 1, ".2f"),
    "NLL\nat T": ("nll_scaled", 1, ".4f"),
    "ECE\nat T %": ("ece_scaled", 100, ".2f"),
    "floor\nat T %": ("ece_scaled_floor", 100, ".2f"),
}


def show(summary: dict[str, Any], remark: str) -> None:
    """Prints the scores of a run, its calibration and a remark.

    Summaries of earlier versions have no scores of calibration but the ECE.
    """
    rows = [
        (f"{split} ({which})", str(summary["steps"][which]), scores)
        for split in ("validation", "test")
        for which in ("last", "best")
        if (scores := (summary[split] or {}).get(which))
    ]
    title = (
        f"{summary['name']}: {summary['method']}, seed {summary['seed']}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:,.0f} s"
    )
    table = Table("split", title=title)
    for heading in ("step", *_SCORES):
        table.add_column(heading, justify="right")
    for label, step, scores in rows:
        table.add_row(label, step, *cells(scores, _SCORES))
    tables = [table]
    if any("ece_floor" in scores for _, _, scores in rows):
        columns = dict(_CALIBRATION)
        if any("temperature" in scores for _, _, scores in rows):
            columns |= _SCALED
        table = Table("split", title="Calibration")
        for heading in columns:
            table.add_column(heading, justify="right")
        for label, _, scores in rows:
            table.add_row(label, *cells(scores, columns))
        tables.append(table)
    console = Console(highlight=False, quiet=not processes.is_first())
    for table in tables:
        console.print(table)
    console.print(remark, markup=False, soft_wrap=True)


def cells(scores: Scores, columns: Columns) -> list[str]:
    """The cells of a row; "-" for a score that is unknown.

    Args:
      scores: Of a split.
      columns: Heading -> name of the score, its scale and its format.
    """
    return [
        "-" if scores.get(name) is None else f"{scale * scores[name]:{form}}"
        for name, scale, form in columns.values()
    ]
