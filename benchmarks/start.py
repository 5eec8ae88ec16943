"""Time until training starts: imports, compilation and the first step.

    python benchmarks/start.py --json=FILE

Processes alternate, and ratios are medians. First `import introspect_jax` is compared
with `import jax`. Then the time from the start of `launch/main.py` to the metrics of
the first step (introspective, on the digits) is measured with an empty persistent
compilation cache, and with the cache that this process has filled. The seconds of
compilation are those that JAX reports; they do not include tracing, which is not
cached.
"""

import collections
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from absl import app, flags, logging

FLAGS = flags.FLAGS
flags.DEFINE_integer("repeats", 3, "Pairs of processes that train.")
flags.DEFINE_integer("imports", 7, "Turns of processes that only import.")
flags.DEFINE_string("model", "resnet20", "The network.")
flags.DEFINE_string("json", None, "Where to write the rows.")
flags.DEFINE_string("first_step", None, "Of a child: the folder to train in.")

IMPORT_GOAL, CACHE_GOAL = 1.5, 1 / 3
# Modules that training a Flax linen network must not import.
UNWANTED = ("tensorflow", "flax.nnx", "equinox", "haiku")
# The last is what `launch/main.py` imports before it reads data.
MODULES = ("jax", "introspect_jax", "introspect_jax.run")
IMPORT = """
import json, sys, time
began = time.perf_counter()
import {module}
took = time.perf_counter() - began
print(json.dumps([took, sorted(set({unwanted}) & set(sys.modules))]))
"""


class _Reached(Exception):
    """The first step has been taken."""


def first_step(folder: pathlib.Path) -> None:
    """Trains a step in `folder` and leaves `figures.json` there."""
    import jax

    spent: collections.Counter[str] = collections.Counter()

    def listen(event: str, seconds: float, **_) -> None:
        spent[event] += seconds

    jax.monitoring.register_event_duration_secs_listener(listen)
    from introspect_jax import cpu
    from introspect_jax.config import default_config
    from introspect_jax.run import run
    from introspect_jax.train.progress import Reporter

    class Telling(Reporter):
        def log(self, step, values):
            raise _Reached

    cpu.switch_on()
    config = default_config()
    config.data.name = "digits"
    config.model.name = FLAGS.model
    config.log_steps = 1
    try:
        run("start", config, str(folder / "run"), make_reporter=Telling)
    except _Reached:
        figures = {
            "ended": time.time(),
            "compile": spent["/jax/core/compile/backend_compile_duration"],
            "unwanted": [name for name in UNWANTED if name in sys.modules],
        }
        (folder / "figures.json").write_text(json.dumps(figures))


def start(cache: str) -> dict:
    """`total` and `compile`, seconds, of a process that uses this cache."""
    cached = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, f"--first_step={folder}"]
        began = time.time()
        done = subprocess.run(
            [*command, f"--model={FLAGS.model}"],
            env=os.environ | cached,
            capture_output=True,
            text=True,
        )
        written = pathlib.Path(folder) / "figures.json"
        if not written.exists():
            raise SystemExit(f"the first step was not reached: {done.stderr[-2000:]}")
        figures = json.loads(written.read_text())
    return {"total": figures.pop("ended") - began, **figures}


def import_seconds(module: str) -> tuple[float, list[str]]:
    """Of a process of its own, and which of `UNWANTED` came with it."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(module=module, unwanted=UNWANTED)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    took, unwanted = json.loads(done.stdout)
    return took, unwanted


def measure_imports() -> list[dict]:
    """A row for each of `MODULES`, relative to the first."""
    taken, unwanted = {module: [] for module in MODULES}, {}
    for turn in range(FLAGS.imports + 1):
        for module in MODULES if turn % 2 else reversed(MODULES):
            took, unwanted[module] = import_seconds(module)
            if turn:  # the first reads the files from the disk
                taken[module].append(took)
    return [
        {
            "what": f"import {module}",
            "against": f"import {MODULES[0]}",
            "ratio": median_ratio(taken[module], taken[MODULES[0]]),
            "seconds": statistics.median(taken[module]),
            "goal": IMPORT_GOAL if module == "introspect_jax" else None,
            "unwanted": unwanted[module],
        }
        for module in MODULES[1:]
    ]


def measure_starts() -> list[dict]:
    """Rows of the compilation and of everything until the first step."""
    cold, warm = [], []
    for _ in range(FLAGS.repeats):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(start(cache))
            warm.append(start(cache))
    return [
        {
            "what": what,
            "against": "without cache",
            "ratio": median_ratio([w[field] for w in warm], [c[field] for c in cold]),
            "seconds": statistics.median(w[field] for w in warm),
            "seconds_without": statistics.median(c[field] for c in cold),
            "goal": goal,
            "unwanted": sorted({name for w in warm for name in w["unwanted"]}),
        }
        for what, field, goal in (
            ("compilation, with cache", "compile", CACHE_GOAL),
            ("first step, with cache", "total", None),
        )
    ]


def main(_):
    if FLAGS.first_step:
        first_step(pathlib.Path(FLAGS.first_step))
        return
    logging.set_verbosity(logging.WARNING)
    rows = measure_imports() + measure_starts()
    for row in rows:
        row["met"] = None if row["goal"] is None else row["ratio"] <= row["goal"]
    show(
        f"Until the first step of {FLAGS.model}",
        ("what<", "against<", "ratio", "seconds", "goal<", "brings<"),
        [
            (
                row["what"],
                row["against"],
                f"{row['ratio']:.2f}x",
                f"{row['seconds']:.2f}",
                ""
                if row["goal"] is None
                else f"at most {row['goal']:.2f}x: {'met' if row['met'] else 'MISSED'}",
                ", ".join(row["unwanted"]) or "nothing unwanted",
            )
            for row in rows
        ],
    )
    record(FLAGS.json, rows, model=FLAGS.model)


if __name__ == "__main__":
    # Not in the children's way: their imports are what is measured.
    if not any(word.startswith("--first_step") for word in sys.argv):
        from timing import median_ratio, record, show
    app.run(main)
