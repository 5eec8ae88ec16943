"""What the soft target knows: python launch/agreement.py --workdir=RUN --teacher=RUN"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of a run with its checkpoints.")
flags.DEFINE_string("teacher", None, "Folder of a better run on the same data.")
flags.DEFINE_string(
    "data_dir", None, "Where the data of the run lie, if they were moved."
)
flags.DEFINE_string("output", None, "Folder for page, table and figure.")
flags.DEFINE_string("data", "", "What the page calls the data.")
flags.DEFINE_integer("num_images", 1000, "Images of the validation split.")
cli.define_cpu_flag()


def main() -> None:
    for name in ("workdir", "teacher", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing")
    if FLAGS.num_images < 1:
        raise UserError(f"--num_images must be at least 1, got {FLAGS.num_images}")
    # Read late: a mistyped flag is answered before JAX is started.
    from introspect_jax import cpu
    from introspect_jax.machine import enable_compilation_cache
    from introspect_jax.paths import absolute
    from studies.agreement import agreement

    enable_compilation_cache()
    if FLAGS.fast_cpu:
        cpu.switch_on(devices=False)  # its batches are not divided
    output = absolute(FLAGS.output)
    agreement(
        FLAGS.workdir,
        FLAGS.teacher,
        output,
        num_images=FLAGS.num_images,
        data=FLAGS.data,
        data_dir=FLAGS.data_dir,
    )
    print(f"{output}: README.md, agreement.json and agreement.png")


if __name__ == "__main__":
    cli.run(main)
