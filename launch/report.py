"""Reports a study: python launch/report.py --workdir=DIR --output=results/NAME"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of a study, finished or not.")
flags.DEFINE_string("output", None, "Folder for page, tables, figures and records.")
flags.DEFINE_string("index", None, "Instead: folder of results to write a page for.")


def main() -> None:
    if FLAGS.index:
        from studies.pages.index import write_index

        write_index(FLAGS.index)
        print(f"{FLAGS.index}/README.md lists all studies")
        return
    for name in ("workdir", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing")
    # Read late: a mistyped flag is answered before JAX is started.
    from studies.pages.command import report

    summary = report(FLAGS.workdir, FLAGS.output)
    missing = len(summary["not_run"])
    print(f"{FLAGS.output}: README.md, tables, figures and the records of all runs")
    if missing:
        print(f"{missing} arms miss seeds; the page lists them")


if __name__ == "__main__":
    cli.run(main)
