"""Explains a trained run: python launch/explain.py --workdir=RUN --output=DIR

Another explanation than that of the run, and its fields:
--explanation=integrated_gradients --explanation.num_steps=20
"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli
from introspect_jax.binding import check, explanation_fields, for_pictures
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string(
    "data_dir", None, "Where the data of the run lie, if they were moved."
)
flags.DEFINE_string("output", None, "Folder for pictures, raw maps and metrics.")
flags.DEFINE_string("explanation", None, "Explanation; default: that of the run.")
for name, default in explanation_fields().items():
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float}.get(
        type(default), flags.DEFINE_string
    )
    define(f"explanation.{name}", None, f"Its field, such as {default}.")
flags.DEFINE_string("similarity", None, "Similarity; default: that of the run.")
flags.DEFINE_integer(
    "chunk_size", None, "Samples or steps at once; default: that of the run."
)
flags.DEFINE_integer("num_examples", 16, "Test images in the pictures.")
flags.DEFINE_integer("metric_images", 64, "Test images that metrics are taken over.")
flags.DEFINE_string("images", None, "Folder of one's own PNG and JPEG images instead.")
cli.define_cpu_flag()


def main() -> None:
    for name in ("workdir", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing")
    for name in ("num_examples", "metric_images"):
        if FLAGS[name].value < 1:
            raise UserError(f"--{name} must be at least 1, got {FLAGS[name].value}")
    # Read late: a mistyped flag is answered before JAX is started.
    from introspect_jax import cpu
    from introspect_jax.paths import absolute
    from introspect_jax.report.explain_run import explain_run, show
    from introspect_jax.restore import load

    if FLAGS.fast_cpu:
        cpu.switch_on(devices=False)  # its batches are not divided
    run = load(FLAGS.workdir, data_dir=FLAGS.data_dir)
    config = for_pictures(run.config)
    config.explanation = FLAGS.explanation or config.explanation
    config.similarity = FLAGS.similarity or config.similarity
    config.chunk_size = FLAGS.chunk_size or config.chunk_size
    for field in explanation_fields():
        value = FLAGS[f"explanation.{field}"].value
        if value is None:
            continue
        fields = config.get(config.explanation, {})
        if field not in fields:
            known = ", ".join(fields) or "none"
            raise UserError(
                f"--explanation.{field}: {config.explanation} has no such field; its "
                f"fields: {known}"
            )
        fields[field] = value
    check(config, "--")
    output = absolute(FLAGS.output)
    rows = explain_run(
        run,
        config,
        output,
        num_examples=FLAGS.num_examples,
        metric_images=FLAGS.metric_images,
        images=FLAGS.images,
    )
    show(rows, output)


if __name__ == "__main__":
    cli.run(main)
