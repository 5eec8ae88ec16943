"""A whole run: data, training, test, files."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import jax
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax import data, method_files, processes, restore, teachers
from introspect_jax.binding import for_pictures
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.report import figures, summary
from introspect_jax.train.check import check
from introspect_jax.train.devices import at_hand, make_mesh
from introspect_jax.train.files import write_json
from introspect_jax.train.loop import Result, never, train
from introspect_jax.train.parallel import choose_devices
from introspect_jax.train.progress import Reporter, read_cost
from introspect_jax.train.state import deployed_variables
from introspect_jax.train.trainer import Trainer, build
from introspect_jax.workdir import (
    default_workdir,
    find_finished,
    open_workdir,
    record_settings,
    recorded_settings,
    write_config,
)
from introspect_jax.writer import only_writer


def run(
    name: str,
    config: ConfigDict,
    path: str | None = None,
    *,
    dataset: Dataset | None = None,
    teacher_folder: str | None = None,
    make_reporter: Callable[[int, int, int], Reporter] = Reporter,
    should_stop: Callable[[int], bool] = never,
    pictures: bool = True,
) -> dict[str, Any]:
    """Trains, tests, and writes the work folder; shows the result if the run is
    finished.

    Of several processes all call it, with the same arguments and the same folder.

    Args:
      name: of the config, for the default folder.
      config: validated and locked.
      path: the work folder; by default `runs/<name>-<hash of config and data>`.
      dataset: of the config, where it is at hand.
      teacher_folder: of the teacher that is trained first, where that is not beside
        this run.
      make_reporter: total steps, steps an epoch, batch size -> what tells of progress.
      should_stop: see `train`.
      pictures: whether to draw them.

    Returns:
      What is in `summary.json`.

    Raises:
      Stopped: see `train`; the same call continues.
      UserError: other data than those of the run in the folder, or another process
        that writes there; and as `open_workdir`, `data.load`, `teachers.find`, `build`
        and `train`.
    """
    if path is None:
        path = _gone(name, config) if dataset is None else None
        if path is None:
            dataset = dataset or _load(config)
            known = {"data": dataset.identity.sha256} | teachers.digest(config)
            known |= method_files.digests(config)
            path = default_workdir(name, config, **known)
    workdir = open_workdir(path, config)
    finished = _finished(workdir, config, dataset)
    if finished is not None:
        return finished
    writer = only_writer(workdir) if processes.is_first() else contextlib.nullcontext()
    with writer:
        dataset = dataset or _load(config)
        restore.check_data(workdir, dataset)
        if not processes.same_everywhere(dataset.identity.sha256):
            raise UserError(
                "the processes of this run see different data; copy the same data to "
                "every host"
            )
        folder = absolute(teacher_folder) if teacher_folder else None
        teacher = teachers.find(name, config, workdir, dataset, folder)
        devices = choose_devices(config, recorded_settings(workdir).get("devices", 0))
        network = teacher.model if teacher else None
        trainer = build(config, dataset, devices, teacher=network)
        check(trainer)
        if pictures:
            figures.check(trainer.method.model, config)
        share = (jax.process_index(), jax.process_count())
        data.verify(dataset, test=config.evaluate_test, share=share)
        if processes.is_first():
            write_config(workdir, config, dataset.describe())
        record_settings(workdir, trainer.parallel.settings())
        method_files.record(workdir, config)

        def train_first(name: str, taught: ConfigDict, path: str) -> None:
            same = taught.data.to_json() == config.data.to_json()
            shared = dataset if same else None
            run(name, taught, path, dataset=shared, should_stop=should_stop)

        # Whatever is trained first is trained here, on its own account.
        constants = trainer.constants(teacher.resolve(train_first) if teacher else None)
        steps = (config.total_steps, trainer.context.steps_per_epoch, config.batch_size)
        with make_reporter(*steps) as reporter:
            result = train(
                trainer, constants, dataset.validation, workdir, reporter, should_stop
            )
        content = _finish(name, trainer, dataset, result, workdir, pictures=pictures)
    told = f"{workdir}: config, metrics, checkpoints and pictures are there"
    summary.show(content, told)
    return content


def _load(config: ConfigDict) -> Dataset:
    return data.load(config.data, hold=jax.process_count() == 1)


def _gone(name: str, config: ConfigDict) -> str | None:
    """Returns the default folder of a finished run whose data, teacher or files do not
    exist any more, so that it cannot be named by their digests; None for other runs."""
    teacher = config.method.teacher
    if jax.process_count() > 1 or (
        data.at_hand(config.data)
        and (not teacher or absolute(teacher).exists())
        and method_files.at_hand(config)
    ):
        return None
    return find_finished(name, config)


def _finished(
    workdir: epath.Path, config: ConfigDict, dataset: Dataset | None
) -> dict[str, Any] | None:
    """Shows the result of a finished run and returns its summary; None if the run is
    not finished.

    Raises:
      UserError: its data, or its teacher, are at hand and others than they were.
    """
    finished = workdir / "summary.json"
    if not finished.exists():
        return None
    reason: object = "they are not where the config says"
    try:
        if dataset is None and data.at_hand(config.data):
            dataset = data.load(config.data, hold=False)
    except Exception as error:  # a loader from outside may raise anything
        reason = error
    if dataset is not None:
        restore.check_data(workdir, dataset)
    else:
        logging.warning(
            "%s: its data were not compared with those of the config (%s)",
            workdir,
            reason,
        )
    teachers.check_recorded(config, workdir)
    method_files.check_recorded(workdir, config)
    try:
        content = json.loads(finished.read_text())
        told = f"{workdir}: finished before; remove the folder to run it again"
        summary.show(content, told)
        return content
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged (%s); written anew", finished, error)
        return None


def _finish(
    name: str,
    trainer: Trainer,
    dataset: Dataset,
    result: Result,
    workdir: epath.Path,
    *,
    pictures: bool,
) -> dict[str, Any]:
    """Tests the networks, draws the pictures, writes `summary.json` and returns it."""
    last = best = deployed_variables(trainer.method, result.last)
    if result.best_step != trainer.config.total_steps:
        best = deployed_variables(trainer.method, result.best)
    content = {
        **summary.summarize_run(name, trainer, dataset, result, last, best),
        "cost": read_cost(workdir),
        "teacher": teachers.read_record(workdir),
    }
    if pictures and processes.is_first():
        trained = _trained(trainer, dataset, last, result)
        try:
            figures.draw_all(trained, workdir)
        except Exception as error:  # no picture is worth the result of a run
            trace = not isinstance(error, OSError)
            logging.error("a picture could not be drawn: %s", error, exc_info=trace)
    # Last: a run that is killed before is not finished, and finishes all of it.
    if processes.is_first():
        write_json(workdir / "summary.json", content)
    processes.wait_for_all("finished")
    return content


def _trained(
    trainer: Trainer, dataset: Dataset, variables: Any, result: Result
) -> restore.Run:
    """Returns the trained network, for work that one process does alone."""
    alone = jax.process_count() > 1
    return restore.Run(
        model=trainer.method.model,
        variables=at_hand(variables),
        preprocess=trainer.evaluator.preprocess,
        class_names=dataset.class_names,
        image_shape=dataset.image_shape,
        dtype=dataset.describe()["dtype"],
        explain=for_pictures(trainer.config),
        config=trainer.config,
        step=trainer.config.total_steps,
        state_sha256=result.state_sha256,
        mesh=make_mesh({}, jax.local_devices()) if alone else trainer.parallel.mesh,
        load_dataset=lambda: dataset,
    )
