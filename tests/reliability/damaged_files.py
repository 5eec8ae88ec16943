"""Damage to the files of a work folder that are not checkpoints."""

import contextlib
import functools
import io
import json
import logging
import pathlib
import shutil
from collections.abc import Callable

from damage import Damage, Warnings, apply, damages
from etils import epath
from ml_collections import ConfigDict
from tiny import TINY

from introspect_jax import data, teachers
from introspect_jax import run as whole_run
from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from introspect_jax.restore import load
from introspect_jax.train.files import write_json
from introspect_jax.train.progress import Metrics
from introspect_jax.workdir import open_workdir, write_config

SCORES = {"top1": 0.5, "top5": 0.75, "nll": 1.5, "ece": 0.125}
ABOUT = {
    "class_names": ["a", "b"],
    "image_shape": [8, 8, 1],
    "dtype": "uint8",
    "examples": {"train": 64, "validation": 8, "test": 8},
}
SUMMARY = {
    "name": "digits",
    "method": "standard",
    "seed": 0,
    "test": {"last": SCORES, "best": SCORES},
    "validation": {"last": SCORES, "best": SCORES},
    "steps": {"last": 12, "best": 8},
    "seconds": 1.5,
    "parameters": 1000,
    "state_sha256": "0" * 64,
}
TEACHER = {"workdir": "teacher", "seed": 1000, "state_sha256": "1" * 64}
RECORDS = [
    {"step": 0, "split": "cost", "flops_per_step": 1000.0},
    *(
        {"step": step, "split": "train", "loss": 1.0 / step, "learning_rate": 0.1}
        for step in (2, 4, 6)
    ),
]


# In data.json: JSON that describes no data.
NO_DATA: tuple[dict, ...] = (
    {"examples": {}},
    {"examples": [1]},
    {"examples": {"train": "many"}},
    {"image_shape": [8, 8]},
    {"image_shape": [8, 8, -1]},
    {"image_shape": "8x8"},
    {"class_names": 10},
    {"class_names": [1, 2]},
)


class _Anew(Exception):
    """A run goes on to train."""


def written(folder: pathlib.Path) -> ConfigDict:
    """A work folder without checkpoints; its config."""
    config = default_config()
    workdir = open_workdir(str(folder), config)
    write_config(workdir, config, ABOUT)
    write_json(workdir / "summary.json", SUMMARY)
    write_json(workdir / "teacher.json", TEACHER)
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (folder / "metrics.jsonl").write_text("".join(lines))
    return config


def read_config(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether a run may continue there."""
    open_workdir(str(folder), config)
    return True


def read_summary(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether it is shown; else the run is finished anew."""
    kept = data.load, data.at_hand

    def stop(config, **options):
        raise _Anew

    data.load, data.at_hand = stop, lambda config: False
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return whole_run.run("digits", config, str(folder)) == SUMMARY
    finally:
        data.load, data.at_hand = kept


def read_teacher(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether it is what was written."""
    return teachers.read_record(epath.Path(folder)) == TEACHER


def read_metrics(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether a run that continues from step 6 has all its records."""
    Metrics(epath.Path(folder), 6).close()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines] == RECORDS


def trained(folder: pathlib.Path) -> ConfigDict:
    """The work folder of a short run; its config."""
    config = default_config()
    config.data.name, config.model.name, config.method.name = "digits", TINY, "standard"
    config.batch_size = config.eval_batch_size = 64
    config.total_steps = 1
    with contextlib.redirect_stdout(io.StringIO()):
        whole_run.run("digits", config, str(folder), pictures=False)
    return config


def read_data(folder: pathlib.Path, config: ConfigDict) -> bool:
    """Whether a network is restored with the classes and shapes that it had."""
    found = load(str(folder))
    digits = data.load(config.data)
    return (found.class_names, found.image_shape) == (
        digits.class_names,
        digits.image_shape,
    )


READERS: dict[str, Callable[[pathlib.Path, ConfigDict], bool]] = {
    "config.json": read_config,
    "summary.json": read_summary,
    "teacher.json": read_teacher,
    "metrics.jsonl": read_metrics,
    "data.json": read_data,
}


def changed(changes: dict) -> Damage:
    """Sets entries of an object."""
    return lambda content: json.dumps(json.loads(content) | changes).encode()


def outcome_of(read: Callable[[], bool], heard: Warnings) -> str:
    """ "intact", "error", "warning", "anew", "another value", or a stack trace."""
    heard.lines = []
    try:
        same = read()
    except UserError as error:
        return "error" if "\n" not in str(error) else "an error of several lines"
    except _Anew:
        return "anew"
    except Exception as error:
        return f"a stack trace: {type(error).__name__}: {str(error)[:200]}"
    # Of the data of these runs there is only a description.
    if [line for line in heard.lines if "data were not compared" not in line]:
        return "warning"
    return "intact" if same else "another value"


def judge(file: str, damage: str, outcome: str) -> bool:
    """Whether it was noticed.

    A byte that turns a text into another valid one cannot be noticed in files without
    a digest: another digit in a result or a record. Nothing is trained from these.
    """
    if outcome in ("error", "warning", "intact"):
        return True
    if outcome == "anew":
        return file == "summary.json"
    return outcome == "another value" and damage.startswith("byte")


def check_files(scratch: pathlib.Path, flips: int) -> list[dict]:
    """Every file x every damage, and what reading it comes to."""
    rows = []
    folders = {True: scratch / "run", False: scratch / "whole"}
    configs = {True: trained(folders[True]), False: written(folders[False])}
    heard = Warnings()
    for name, read in READERS.items():
        whole, config = folders[name == "data.json"], configs[name == "data.json"]
        kinds = list(damages((whole / name).stat().st_size, flips))
        if name == "data.json":
            kinds += [(str(changes), changed(changes)) for changes in NO_DATA]
        for kind, damage in kinds:
            folder = scratch / "case"
            shutil.copytree(whole, folder)
            apply(folder / name, damage)
            there = (folder / name).exists()
            outcome = outcome_of(functools.partial(read, folder, config), heard)
            ok = judge(name, kind, outcome)
            if not there:
                # As if it had never been: the run begins it again.
                ok = outcome in ("intact", "another value", "anew", "warning")
            rows.append({"file": name, "damage": kind, "outcome": outcome, "ok": ok})
            shutil.rmtree(folder)
    logging.getLogger("absl").removeHandler(heard)
    return rows
