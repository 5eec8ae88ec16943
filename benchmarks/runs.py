"""Several runs of a config in one process: results and seconds.

    python benchmarks/runs.py --config=configs/digits.py --seeds=0,1,2 --json=FILE

Each seed with every method, so that pairs are complete when the time is up. The data
are loaded once, programs come from the compilation cache after the first run of a
method, and no pictures are drawn: with steps of a millisecond the rest of a run of
`launch/main.py` takes much longer than training. Rows are the summaries of the runs,
with all of their seconds; those of the summary are training and evaluation. The first
row of a method has its compilation in it.
"""

import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
from ml_collections import ConfigDict
from timing import record, show

from introspect_jax import cli, cpu, data
from introspect_jax.config import lock, validate
from introspect_jax.machine import enable_compilation_cache
from introspect_jax.report.summary import cells
from introspect_jax.run import run

FLAGS = flags.FLAGS
cli.define_config_flag()
flags.DEFINE_list("methods", ["standard", "introspective"], "Of training.")
flags.DEFINE_list("seeds", ["0", "1", "2", "3", "4"], "Of each method.")
flags.DEFINE_string("workdir", None, "Folder of their folders; default: not kept.")
cli.define_cpu_flag()
flags.DEFINE_string("json", None, "Where to write the rows.")

# Heading -> name of the score, scale and format.
SCORES = {
    "top-1 %": ("top1", 100, ".2f"),
    "NLL": ("nll", 1, ".4f"),
    "ECE %": ("ece", 100, ".2f"),
    "floor %": ("ece_floor", 100, ".2f"),
    "conf - acc %": ("overconfidence", 100, "+.2f"),
    "NLL at T": ("nll_scaled", 1, ".4f"),
}


def configs(config: ConfigDict) -> list[ConfigDict]:
    """A config for each run."""
    made = []
    for seed in FLAGS.seeds:
        for method in FLAGS.methods:
            one = ConfigDict(config.to_dict())
            one.method.name, one.seed = method, int(seed)
            validate(one)
            made.append(lock(one))
    return made


def train_all(name: str, config: ConfigDict, folder: str) -> list[dict]:
    """The rows, which are written as they come."""
    dataset, rows = data.load(config.data), []
    for one in configs(config):
        path = f"{folder}/{one.method.name}-{one.seed}"
        began = time.monotonic()
        summary = run(name, one, path, dataset=dataset, pictures=False)
        whole = time.monotonic() - began
        rows.append({**summary, "dtype": one.model.dtype, "whole_seconds": whole})
        record(FLAGS.json, rows, config=config.to_dict())
    return rows


def main() -> None:
    name, config = cli.read_config()
    enable_compilation_cache()
    if FLAGS.fast_cpu:
        cpu.switch_on()
    with tempfile.TemporaryDirectory() as folder:
        rows = train_all(name, config, FLAGS.workdir or folder)
    show(
        f"{name}, {config.model.dtype}",
        ("method<", "seed", "split<", *SCORES, "s", "with all, s"),
        [
            (
                row["method"],
                str(row["seed"]),
                split,
                *cells(row[split]["last"], SCORES),
                f"{row['seconds']:.1f}",
                f"{row['whole_seconds']:.1f}",
            )
            for row in rows
            for split in ("validation", "test")
            if row[split]
        ],
    )


if __name__ == "__main__":
    cli.run(main)
