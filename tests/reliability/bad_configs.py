"""Configs with one mistake each: accepted, or refused in one line before compiling.

    python tests/reliability/bad_configs.py [--json=FILE] [--count=200] [--commands=20]

Beside those that are drawn there are those of `config_cases.LISTED`, most of them about
parts from outside (`outside.py`), for which the line must say what is wrong.

Every case takes a config of configs/, with one of its arguments, and corrupts one field
(on the command line, or in a config file of its own) or the argument. It then goes, in
this process, through what launch/main.py does before it compiles: the flags are parsed,
`cli.read_config`, `data.load`, and `run.run` until it writes the config. Some are also
run as commands, on the digits and for 2 steps, where what is accepted must end by
itself.

TFDS sets that are not prepared on the machine are replaced by blank images of the same
number, shape and classes, behind the same interface; the output says which.
"""

import argparse
import collections
import contextlib
import functools
import io
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from typing import Any
from unittest import mock

os.environ["JAX_PLATFORMS"] = "cpu"
ROOT = pathlib.Path(__file__).resolve().parents[2]
TESTS = [str(ROOT / "tests"), str(ROOT / "tests" / "reliability")]
sys.path[:0] = [str(ROOT), *TESTS]

import numpy as np
from absl import flags
from common import TooLong, limit, parse_arguments, write_result
from config_cases import LISTED, LISTED_LATE, Case, command_line, draw_cases, flags_of
from etils import epath
from ml_collections import config_flags

from introspect_jax import cli, data, methods, run
from introspect_jax.data import tfds_reader
from introspect_jax.data.sources import Dataset, Source, cut
from introspect_jax.errors import UserError

# Training and test examples, classes, (h, w, c) as stored or None for many sizes.
BLANK = {
    "cifar10": (50_000, 10_000, 10, (32, 32, 3)),
    "cifar100": (50_000, 10_000, 100, (32, 32, 3)),
    "tiny_imagenet32": (100_000, 10_000, 200, (32, 32, 3)),
    "imagenet2012": (1_281_167, 50_000, 1000, None),
}
# Of config.data: what changes which images are loaded.
LOADED = ("name", "data_dir", "train_split", "test_split", "validation_fraction")
LOADED += ("train_examples", "label_noise", "load_size", "device_megabytes", "options")
IN_PROCESS_SECONDS, COMMAND_SECONDS = 180, 420
MEMORY_BYTES = 16 * 2**30


class _Accepted(Exception):
    """Nothing is left but to train."""


class Loader:
    """Loads data sets; those as the configs have them are kept."""

    def __init__(self):
        self._kept: dict[str, Dataset] = {}
        self._real_load = tfds_reader.load
        self.real: set[str] = set()
        self.blank: set[str] = set()

    def load(self, config, *, keep: bool = False) -> Dataset:
        """`data.load(config)`, with blank images for what is not prepared."""
        key = repr([(name, config[name]) for name in LOADED])
        if key in self._kept:
            return self._kept[key]
        with mock.patch.object(tfds_reader, "load", self._tfds):
            dataset = data.load(config)
        if keep:
            self._kept[key] = dataset
        return dataset

    def _tfds(self, config) -> Dataset:
        if config.name not in BLANK or self._is_prepared(config):
            dataset = self._real_load(config)
            self.real.add(config.name)
            return dataset
        self.blank.add(config.name)
        return blank(config)

    @staticmethod
    def _is_prepared(config) -> bool:
        # A folder that was corrupted is for the reader to refuse.
        root = config.data_dir or os.environ.get("TFDS_DATA_DIR", "")
        return bool(config.data_dir) or bool(
            root and list(pathlib.Path(root).glob(f"{config.name}/*/dataset_info.json"))
        )


def blank(config) -> Dataset:
    """What `tfds_reader.load` gives, of black images that are made when they are read.

    Raises:
      UserError: no such split, or images of many sizes that are not resized.
    """
    train, test, classes, shape = BLANK[config.name]
    counts = {"train": train, "test": test, "validation": test}
    for split in (config.train_split, config.test_split):
        if split not in counts:
            raise UserError(f"data set {config.name!r} has no split {split!r}")
    if config.load_size:
        shape = (config.load_size, config.load_size, 3)
    if shape is None:
        raise UserError(f"data set {config.name!r} has many sizes; set data.load_size")

    def read(numbers):
        labels = (numbers % classes).astype(np.int32)
        return np.zeros((len(numbers), *shape), np.uint8), labels

    whole = Source(read, np.arange(counts[config.train_split]))
    kept, held_out = cut(len(whole), config.validation_fraction)
    return Dataset(
        train=whole.subset(kept),
        validation=whole.subset(held_out),
        test=Source(read, np.arange(counts[config.test_split])),
        class_names=tuple(map(str, range(classes))),
        image_shape=shape,
    )


def attempt(
    arguments: list[str], folder: pathlib.Path, loader: Loader
) -> tuple[str, str]:
    """What launch/main.py does before it compiles, in this process.

    Returns:
      `"accepted"`, `"refused"` or `"failure"`, and the line that was said.
    """
    values = flags.FlagValues()
    define = functools.partial(config_flags.DEFINE_config_file, flag_values=values)
    with mock.patch.object(config_flags, "DEFINE_config_file", define):
        cli.define_config_flag()
    said = io.StringIO()

    argv = ["main.py", *arguments]
    try:
        # ml_collections looks for overrides in `sys.argv`.
        with (
            limit(IN_PROCESS_SECONDS),
            mock.patch.object(flags, "FLAGS", values),
            mock.patch("sys.argv", argv),
            # The config is written when all parts are known to fit.
            mock.patch.object(run, "write_config", side_effect=_Accepted),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
        ):
            cli._parse(argv)
            name, config = cli.read_config()
            workdir = epath.Path(folder) / "run"
            dataset = loader.load(config.data)
            run.run(name, config, str(workdir), dataset=dataset)
    except _Accepted:
        return "accepted", ""
    except UserError as error:
        said = io.StringIO(f"error: {error}\n")
    except SystemExit as error:
        if error.code != cli.FAILED:
            return "failure", f"exit with code {error.code}"
    except (Exception, TooLong) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        line = (str(error).splitlines() or [""])[0][:200]
        kind = type(error).__name__
        place_name = pathlib.Path(place.filename).name
        return "failure", f"{kind}: {line} ({place_name}:{place.lineno})"
    return one_line(said.getvalue())


def one_line(text: str) -> tuple[str, str]:
    """`"refused"` if the text is a single line of error, else `"failure"`.

    All flags of the cases exist, so an unknown flag would be the script's own mistake.
    """
    lines = [line for line in text.splitlines() if line]
    ours = any(line.startswith("error: unknown flag") for line in lines)
    if len(lines) == 1 and lines[0].startswith("error: ") and not ours:
        return "refused", lines[0]
    return "failure", f"not one line of error: {text[:300]!r}"


def run_command(arguments: list[str], folder: pathlib.Path) -> tuple[str, str]:
    """The same as a command of its own, to the end of its 2 steps.

    Returns:
      Also `"accepted, diverged"`: it trained, and the loss was not finite.
    """
    workdir = folder / "run"
    quick = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""}
    quick["PYTHONPATH"] = os.pathsep.join(TESTS)
    words = [sys.executable, str(ROOT / "launch" / "main.py"), *arguments]
    words.append(f"--workdir={workdir}")
    try:
        done = subprocess.run(
            words,
            cwd=folder,
            env=os.environ | quick,
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return "failure", f"did not end within {COMMAND_SECONDS} s"
    if done.returncode == 0 and "Traceback" not in done.stderr:
        if (workdir / "summary.json").exists():
            return "accepted", ""
        return "failure", "ended well, without a summary"
    if done.returncode != cli.FAILED:
        return "failure", f"code {done.returncode}: {done.stderr[-300:]!r}"
    verdict, line = one_line(done.stderr)
    if verdict == "refused" and (workdir / "config.json").exists():
        if " at step " in line:
            return "accepted, diverged", line
        return "refused after it began", line
    return verdict, line


def judge_listed(loader: Loader, late: bool = True) -> list[dict[str, Any]]:
    """A row for each of `LISTED`, and of `LISTED_LATE`, as commands, if wanted."""
    rows = []
    cases = [(name, LISTED[name], "in process", "refused") for name in LISTED]
    for name in LISTED_LATE if late else ():
        cases.append((name, LISTED_LATE[name], "as command", "refused after it began"))
    for name, (fields, said), where, expected in cases:
        with tempfile.TemporaryDirectory() as made:
            folder, began = pathlib.Path(made), time.monotonic()
            arguments = flags_of(fields)
            if where == "in process":
                verdict, line = attempt(arguments, folder, loader)
            else:
                verdict, line = run_command(arguments, folder)
        row = {"where": "listed", "case": name, "verdict": verdict, "line": line}
        row["line"] = line.replace(str(ROOT), "").replace(made, "").strip()
        if verdict != expected or said not in line:
            row["verdict"] = "failure"
        rows.append(row | {"seconds": round(time.monotonic() - began, 1)})
    return rows


def main(count: int, commands: int, seed: int, verbose: bool) -> dict[str, Any]:
    """Does all cases.

    Returns:
      What is written as JSON; `failures` is empty where all is well.
    """
    loader = Loader()
    rows: list[dict[str, Any]] = []
    groups = [("in process", draw_cases(count, seed))]
    if commands:
        groups.append(("as commands", draw_cases(commands, seed + 1, "digits")))
    for where, cases in groups:
        for case in cases:
            with tempfile.TemporaryDirectory() as made:
                folder = pathlib.Path(made)
                arguments = command_line(case, folder)
                began = time.monotonic()
                if where == "in process":
                    _load_base(case, loader)
                    began = time.monotonic()
                    verdict, line = attempt(arguments, folder, loader)
                else:
                    if case.field != "total_steps" or case.value is None:
                        arguments.append("--config.total_steps=2")
                    verdict, line = run_command(arguments, folder)
                    if verdict == "refused after it began":
                        verdict, line = "failure", f"{verdict}: {line}"
            row = {"where": where, "case": case.describe(), "verdict": verdict}
            row["seconds"] = round(time.monotonic() - began, 1)
            if verdict == "failure":
                row["line"] = line.replace(str(ROOT), "").replace(made, "")
            rows.append(row)
            if verbose or verdict == "failure":
                print(
                    f"{verdict}: {where}: {case.describe()}: {line[:160]}", flush=True
                )
    rows += judge_listed(loader)
    counts: dict[str, dict[str, int]] = {}
    for where in dict.fromkeys(row["where"] for row in rows):
        found = collections.Counter(r["verdict"] for r in rows if r["where"] == where)
        counts[where] = dict(sorted(found.items()))
        seconds = max(r["seconds"] for r in rows if r["where"] == where)
        told = ", ".join(f"{n} {v}" for v, n in counts[where].items())
        print(f"{where}: {sum(found.values())} cases: {told}; longest {seconds} s")
    print(f"data: read {sorted(loader.real)}, blank images for {sorted(loader.blank)}")
    return {
        "seed": seed,
        "counts": counts,
        "data_read": sorted(loader.real),
        "data_blank": sorted(loader.blank),
        "failures": [row for row in rows if row["verdict"] == "failure"],
        "cases": rows,
    }


def _load_base(case: Case, loader: Loader) -> None:
    """The data of the config as it is, outside of what is timed."""
    import importlib.util

    path = ROOT / "configs" / f"{case.config}.py"
    spec = importlib.util.spec_from_file_location("base", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    argument = case.argument if case.field else None
    dataset = loader.load(module.get_config(argument).data, keep=True)
    if dataset.train.in_memory:
        dataset.train.take(np.arange(1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--commands", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--verbose", action="store_true")
    given = parse_arguments(parser)
    # What takes all memory is to fail here, not to end the machine's other work.
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    methods.modules()
    result = main(given.count, given.commands, given.seed, given.verbose)
    sys.exit(write_result(given.json, result))
