"""Explains a trained run, or any network with a folder of images:

python launch/explain.py --workdir=RUN --output=DIR
python launch/explain.py --model=package.module:factory --params=FILE --labels=FILE \
    --image_size=224 --images=FOLDER --output=DIR

Another explanation than that of the run, and its fields:
--explanation=integrated_gradients --explanation.num_steps=20
"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags
from ml_collections import ConfigDict

from introspect_jax import cli
from introspect_jax.binding import check, explanation_fields
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string(
    "data_dir", None, "Where the data of the run lie, if they were moved."
)
flags.DEFINE_string(
    "params",
    None,
    "Instead of a run: parameters, a safetensors or msgpack file or a folder of Orbax. "
    "A JSON file beside it, of launch/export.py, stands for the flags up to --resize.",
)
flags.DEFINE_string(
    "model", None, "Their network: package.module:factory, or a built-in name."
)
flags.DEFINE_string("labels", None, "Names of its classes, one a line.")
flags.DEFINE_integer("image_size", None, "Side in pixels of the images that it sees.")
flags.DEFINE_integer("channels", None, "Channels of them: 3, or 1 for grey levels.")
flags.DEFINE_list("mean", None, "Subtracted from pixels in [0, 1]: one or one each.")
flags.DEFINE_list("std", None, "Divides them then.")
flags.DEFINE_string("resize", None, "How images are resized: bilinear or bicubic.")
flags.DEFINE_string("output", None, "Folder for pictures, raw maps and metrics.")
flags.DEFINE_string("explanation", None, "Explanation; default: that of the run.")
for name, default in explanation_fields().items():
    define = {int: flags.DEFINE_integer, float: flags.DEFINE_float}.get(
        type(default), flags.DEFINE_string
    )
    define(f"explanation.{name}", None, f"Its field, such as {default}.")
flags.DEFINE_string("similarity", None, "Similarity; default: that of the run.")
flags.DEFINE_integer(
    "chunk_size", None, "Samples or steps at once, 0 for all; default: of the run."
)
flags.DEFINE_integer("num_examples", 16, "Test images in the pictures.")
flags.DEFINE_integer("metric_images", 64, "Images of the metrics; 0 for none.")
flags.DEFINE_string("images", None, "Folder of images, all of which are explained.")
flags.DEFINE_string("target", None, "Class to explain for them; default: the top one.")
cli.define_cpu_flag()

# What describes a network from outside.
OUTSIDE = ("model", "labels", "image_size", "channels", "mean", "std", "resize")


def main() -> None:
    check_flags()
    # Read late: a mistyped flag is answered before JAX is started.
    from introspect_jax import cpu, pretrained, restore
    from introspect_jax.machine import enable_compilation_cache
    from introspect_jax.paths import absolute
    from introspect_jax.report.explain_run import explain_run, show

    enable_compilation_cache()
    if FLAGS.fast_cpu:
        cpu.switch_on(devices=False)  # its batches are not divided
    if FLAGS.params:
        values = {name: FLAGS[name].value for name in OUTSIDE}
        for name in ("mean", "std"):
            values[name] = numbers(name)
        net = pretrained.load(FLAGS.params, **values)
    else:
        net = restore.load(FLAGS.workdir, data_dir=FLAGS.data_dir)
    output = absolute(FLAGS.output)
    rows = explain_run(
        net,
        with_flags(net.explain),
        output,
        num_examples=FLAGS.num_examples,
        metric_images=FLAGS.metric_images,
        images=FLAGS.images,
        target=FLAGS.target,
    )
    show(rows, output)


def check_flags() -> None:
    """Raises a UserError for flags that are missing or do not go together."""
    if not FLAGS.workdir and not FLAGS.params:
        raise UserError("--workdir is missing, or --params for a network from outside")
    if FLAGS.workdir and FLAGS.params:
        raise UserError("--workdir and --params are two networks; give one of them")
    if not FLAGS.output:
        raise UserError("--output is missing")
    for name in OUTSIDE:
        if not FLAGS.params and FLAGS[name].value is not None:
            raise UserError(f"--{name} is for networks from outside: give --params")
    if FLAGS.params and FLAGS.data_dir:
        raise UserError("--data_dir is for runs: --params has no data")
    if (FLAGS.params or FLAGS.target) and not FLAGS.images:
        raise UserError("--images is missing, the folder of what is to be explained")
    for name, least in (("num_examples", 1), ("metric_images", 0)):
        if FLAGS[name].value < least:
            raise UserError(
                f"--{name} must be at least {least}, got {FLAGS[name].value}"
            )


def numbers(name: str) -> list[float] | None:
    """The numbers of a flag."""
    value = FLAGS[name].value
    try:
        return None if value is None else [float(word) for word in value]
    except ValueError:
        raise UserError(
            f"--{name} must be numbers, such as 0.5 or 0.49,0.48,0.45; got "
            f"{','.join(value)!r}"
        ) from None


def with_flags(config: ConfigDict) -> ConfigDict:
    """A copy of `Trained.explain` with the flags of explanation and similarity."""
    config = ConfigDict(config.to_dict())
    config.explanation = FLAGS.explanation or config.explanation
    config.similarity = FLAGS.similarity or config.similarity
    if FLAGS.chunk_size is not None:
        config.chunk_size = FLAGS.chunk_size
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
    return config


if __name__ == "__main__":
    cli.run(main)
