"""A whole run: data, training, test, files."""

import datetime
import functools
import json
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table

from introspect_jax import processes, teachers
from introspect_jax.data import sources
from introspect_jax.data.sources import Dataset
from introspect_jax.machine import describe_device, describe_versions
from introspect_jax.report import figures
from introspect_jax.train.check import check
from introspect_jax.train.experiment import Experiment, build
from introspect_jax.train.files import write_json
from introspect_jax.train.loop import never, train
from introspect_jax.train.parallel import at_hand
from introspect_jax.train.progress import Reporter, read_cost
from introspect_jax.train.state import deployed_variables
from introspect_jax.workdir import default_workdir, open_workdir, write_config


def run(
    name: str,
    config: ConfigDict,
    path: str | None = None,
    *,
    dataset: Dataset | None = None,
    make_reporter: Callable[[int, int, int], Reporter] = Reporter,
    should_stop: Callable[[int], bool] = never,
    pictures: bool = True,
) -> dict[str, Any]:
    """Trains, tests, and fills the work folder; a finished run is only shown.

    Of several processes all call it, with the same arguments and the same folder.

    Args:
      name: of the config, for the default folder.
      config: validated and locked.
      path: the work folder; by default `runs/<name>-<hash of config>`.
      dataset: of the config, where it is at hand.
      make_reporter: total steps, steps an epoch, batch size -> what tells of progress.
      should_stop: see `train`.
      pictures: whether to draw them.

    Returns:
      What is in `summary.json`.

    Raises:
      Stopped: see `train`; the same call continues.
      UserError: see `open_workdir`, `prepare`, `train`.
    """
    workdir = open_workdir(path or default_workdir(name, config), config)
    finished = workdir / "summary.json"
    if finished.exists():
        try:
            summary = json.loads(finished.read_text())
            remark = "finished before; remove the folder to run it again"
            _show(summary, workdir, remark)
            return summary
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logging.warning("%s is damaged (%s); written anew", finished, error)
    experiment = prepare(
        name, config, workdir, dataset=dataset, should_stop=should_stop
    )
    if processes.is_first():
        write_config(workdir, config)

    with make_reporter(
        config.total_steps, experiment.steps_per_epoch, config.batch_size
    ) as reporter:
        result = train(experiment, workdir, reporter, should_stop)
    last = deployed_variables(experiment.method, result.last)
    best = deployed_variables(experiment.method, result.best)
    scores = None
    if config.evaluate_test:
        # The test split is read here, once, after every choice has been made.
        test = experiment.dataset.test
        scores = {"last": experiment.evaluate(last, test)}
        scores["best"] = (
            scores["last"]
            if result.best_step == config.total_steps
            else experiment.evaluate(best, test)
        )
    summary = {
        "name": name,
        "method": config.method.name,
        "seed": config.seed,
        "test": scores,
        "validation": result.validation,
        "steps": {"last": config.total_steps, "best": result.best_step},
        "seconds": round(result.seconds, 2),
        "examples": {
            "train": len(experiment.dataset.train),
            "validation": len(experiment.dataset.validation),
            "test": len(experiment.dataset.test),
        },
        "classes": experiment.dataset.describe_classes(),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(last["params"])),
        "cost": read_cost(workdir),
        "teacher": teachers.read_record(workdir),
        "state_sha256": result.state_sha256,
        "versions": describe_versions(),
        "device": describe_device(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    if pictures and processes.is_first():
        try:
            figures.draw_all(experiment.alone(), at_hand(last), workdir)
        except Exception as error:  # no picture is worth the result of a run
            trace = not isinstance(error, OSError)
            logging.error("a picture could not be drawn: %s", error, exc_info=trace)
    # Last: a run that is killed before is not finished, and finishes all of it.
    if processes.is_first():
        write_json(finished, summary)
    processes.wait_for_all("finished")
    _show(summary, workdir, "config, metrics, checkpoints and pictures are there")
    return summary


def prepare(
    name: str,
    config: ConfigDict,
    workdir: epath.Path,
    *,
    dataset: Dataset | None = None,
    should_stop: Callable[[int], bool] = never,
) -> Experiment:
    """The experiment of a config, after all that can be said before compiling.

    Args:
      name: of the config.
      config: validated and locked.
      workdir: of `open_workdir`; nothing is written.
      dataset: of the config, where it is at hand.
      should_stop: see `train`, for a teacher that is trained first.

    Raises:
      UserError: see `data.sources.load`, `teachers.find`, `experiment.build`, `check`.
    """
    one = jax.process_count() == 1
    dataset = dataset or sources.load(config.data, hold=one)
    train_first = functools.partial(run, should_stop=should_stop)
    teacher = teachers.find(name, config, workdir, dataset, train_first=train_first)
    experiment = build(config, dataset, teacher=teacher)
    check(experiment)
    return experiment


def _show(summary: dict[str, Any], workdir: epath.Path, remark: str) -> None:
    table = Table(
        title=f"{summary['name']}: {summary['method']}, seed {summary['seed']}, "
        f"{summary['parameters']:,} parameters, {summary['seconds']:,.0f} s"
    )
    for column in ("split", "step", "top-1 %", "top-5 %", "NLL", "ECE %"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for split in ("validation", "test"):
        for which in ("last", "best"):
            scores = (summary[split] or {}).get(which)
            if scores:
                table.add_row(
                    f"{split} ({which})",
                    str(summary["steps"][which]),
                    f"{100 * scores['top1']:.2f}",
                    f"{100 * scores['top5']:.2f}",
                    f"{scores['nll']:.4f}",
                    f"{100 * scores['ece']:.2f}",
                )
    console = Console(highlight=False, quiet=not processes.is_first())
    console.print(table)
    console.print(f"{workdir}: {remark}", markup=False, soft_wrap=True)
