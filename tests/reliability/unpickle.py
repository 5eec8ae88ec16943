"""Folders from elsewhere cannot run code: bombs in the place of every file of a run.

    python tests/reliability/unpickle.py [--json=FILE]

A run with a teacher, a study of two runs and its results are made, with a tiny network.
Then every file in them is replaced, one at a time and all at once, by what runs code
where it is unpickled, imported or handed to another program, and what reads the folder
is called: `run.run` (launch/main.py), `restore.load` (evaluation, explanations,
teachers), `explain_run`, `report`, `write_index`, and the study with `--done`. An audit
hook watches for unpickling, new processes and foreign code, and each bomb would leave a
file. That hook and bombs work is shown first, by setting them off.
"""

import argparse
import collections
import contextlib
import io
import pathlib
import pickle
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "reliability")]

import jax
import numpy as np
from absl import logging
from bombs import SECONDS, Bench
from common import parse_arguments, write_result


def control(bench: Bench) -> list[str]:
    """Sets bombs off; what the hook or the canary missed."""
    missed = []

    def set_off(kind: str, trust: Callable[[bytes], Any], event: str) -> None:
        with bench.watch.looking():
            trust(bench.bombs[kind])
        if not any(seen.startswith(event) for seen in bench.watch.seen):
            missed.append(f"control: {kind}: the hook saw no {event}")
        if not bench.canary.exists():
            missed.append(f"control: {kind}: the bomb did not go off")
        bench.canary.unlink(missing_ok=True)

    def unsafe(content: bytes) -> None:
        np.load(io.BytesIO(content), allow_pickle=True)["params"]

    def imported(content: bytes) -> None:
        bench.now.mkdir(exist_ok=True)
        file = bench.now / "planted.py"
        file.write_bytes(content)
        exec(compile(content, str(file), "exec"), {})

    set_off("pickle", pickle.loads, "pickle.find_class")
    set_off("pickle, protocol 0", pickle.loads, "os.system")
    set_off("npz of objects", unsafe, "pickle.find_class")
    set_off("Python", imported, "exec")
    with bench.watch.looking():
        subprocess.run(["true"], check=True)
    if not bench.watch.seen:
        missed.append("control: the hook saw no new process")
    return missed


def plan(bench: Bench, every: int) -> list[tuple[str, str, dict[str, bytes]]]:
    """(reader, what is planted, name -> content) of every attempt.

    Args:
      bench: made.
      every: only each so many of those of single files.
    """
    kinds = list(bench.bombs)
    single = []

    def plant(reader: str, names: list[str], *few: str) -> None:
        for name in names:
            # A file may be of any kind: each gets the next two, or those given.
            first = len(single)
            chosen = few or (kinds[first % len(kinds)], kinds[(first + 3) % len(kinds)])
            for kind in chosen:
                single.append((reader, f"{name}: {kind}", {name: bench.bombs[kind]}))

    run_files = bench.files("run")
    checkpoints = [name for name in run_files if "/checkpoints/" in name]
    others = [name for name in run_files if "/checkpoints/" not in name]
    plant("evaluate", [name for name in checkpoints if "/checkpoints/2/" in name])
    plant("main", others, "pickle", "JSON with tags")
    plant("evaluate", ["run/config.json", "run/data.json"], *kinds)
    plant("teacher", ["teacher/config.json", "teacher/summary.json"], "pickle")
    plant("report", bench.files("results"), "pickle")
    study = [name for name in bench.files("study") if "/checkpoints/" not in name]
    plant("report", study, "pickle", "JSON with tags")
    plant("index", ["results/one/study.json"], *kinds)
    plant("done", [n for n in bench.files("results") if "/runs/" in n], *kinds)
    plant("study", ["study/study.json"], *kinds)
    plant("images", ["images/a/0.png", "images/b/x.jpg"], *kinds)
    chosen = single[::every]
    pickled, python = bench.bombs["pickle"], bench.bombs["Python"]
    beside = {
        **dict.fromkeys(("a.pkl", "a.pickle", "a.joblib", "a.pt"), pickled),
        **dict.fromkeys(("checkpoint", "checkpoints/checkpoint"), pickled),
        **dict.fromkeys(("maps.npz", "cache.npz"), bench.bombs["npz of objects"]),
        **dict.fromkeys(("sitecustomize.py", "conftest.py", "json.py"), python),
        **dict.fromkeys(("config.py", "__init__.py", "a.pth"), python),
    }
    beside = {f"run/{name}": content for name, content in beside.items()}
    whole = [
        ("main", "beside", beside),
        ("evaluate", "beside", beside),
        ("explain", "beside", beside | {"run/explained/maps.npz": pickled}),
        (
            "evaluate",
            "all checkpoints",
            dict.fromkeys(checkpoints, pickled),
        ),
        (
            "main",
            "all but config.json",
            dict.fromkeys(set(run_files) - {"run/config.json"}, pickled),
        ),
        ("main", "all", dict.fromkeys(run_files, pickled)),
        (
            "explain",
            "images",
            {f"images/a/{i}.png": bench.bombs[k] for i, k in enumerate(kinds)},
        ),
    ]
    return chosen + whole


def from_its_folder(bench: Bench) -> list[str]:
    """The command itself, started in a folder of foreign modules."""
    shutil.rmtree(bench.now, ignore_errors=True)
    bench.now.mkdir()
    for name in ("sitecustomize", "usercustomize", "json", "numpy", "introspect_jax"):
        (bench.now / f"{name}.py").write_bytes(bench.bombs["Python"])
    done = subprocess.run(
        [
            sys.executable,
            str(ROOT / "launch" / "report.py"),
            "--workdir=.",
            "--output=.",
        ],
        cwd=bench.now,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    wrong = []
    if bench.canary.exists():
        bench.canary.unlink()
        wrong.append("launch/report.py imports from the current folder")
    if "is not the folder of a study" not in done.stderr:
        wrong.append(f"launch/report.py said {done.stderr[-200:]!r}")
    return wrong


def main(every: int = 1, verbose: bool = False) -> dict[str, Any]:
    """Does all attempts.

    Args:
      every: only each so many of those with a single planted file.
      verbose: whether to print each.

    Returns:
      What is written as JSON; `failures` is empty where all is well.
    """
    failures, traces = [], []
    told: collections.Counter[str] = collections.Counter()
    opened = 0
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(pathlib.Path(made).resolve())
        with contextlib.redirect_stdout(io.StringIO()):
            bench.make()
        failures += control(bench)
        attempts = plan(bench, every)
        for reader, what, planted in attempts:
            row = bench.attempt(reader, planted)
            outcome, name = row["outcome"], f"{reader}: {what}"
            opened += row["opened"]
            known = outcome in ("read", "refused in one line")
            told[outcome if known else "another error"] += 1
            if not known:
                traces.append(f"{name}: {outcome}".replace(made, ""))
            failures += [f"{name}: {e}".replace(made, "") for e in row["executed"]]
            if verbose or row["executed"] or not known:
                print(f"{name}: {outcome} {row['executed']}", flush=True)
        failures += from_its_folder(bench)
    print(
        f"{len(attempts)} attempts: {dict(told)}; Python opened {opened} of the files"
    )
    return {
        "attempts": len(attempts),
        "outcomes": dict(told),
        "opened_by_python": opened,
        "failures": failures + traces,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    given = parse_arguments(parser)
    warnings.simplefilter("ignore")
    logging.set_verbosity(logging.FATAL)  # it tells of every damaged checkpoint
    jax.config.update("jax_disable_most_optimizations", True)
    result = main(given.every, given.verbose)
    print("\n".join(result["failures"]))
    sys.exit(write_result(given.json, result))
