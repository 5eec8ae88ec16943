"""Runs a study: python launch/study.py --study=configs/studies/NAME.py --workdir=DIR"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("study", None, "A file of configs/studies/, FILE[:ARGUMENT].")
flags.DEFINE_string(
    "workdir", None, "Folder of the study; the same command continues there."
)
flags.DEFINE_float(
    "time_budget", None, "Seconds after which all is saved and stopped; default: none."
)
flags.DEFINE_integer(
    "workers", 1, "Runs at a time, each with its share of the cores; CPU only."
)
flags.DEFINE_bool(
    "dry_run", False, "Only count the runs and, from a few timed steps, their hours."
)
cli.define_cpu_flag()
flags.DEFINE_list("done", [], "Folders of results/ whose runs are not done again.")


def main() -> None:
    for name in ("study", "workdir"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing")
    # Read late: a mistyped flag is answered before JAX is started.
    from studies.command import dry_run, run

    options = {
        "workers": FLAGS.workers,
        "done": FLAGS.done,
        "fast_cpu": FLAGS.fast_cpu,
    }
    if FLAGS.dry_run:
        dry_run(FLAGS.study, FLAGS.workdir, **options)
    else:
        run(FLAGS.study, FLAGS.workdir, time_budget=FLAGS.time_budget, **options)


if __name__ == "__main__":
    cli.run(main)
