"""Writes the network of a run: python launch/export.py --workdir=RUN --output=FILE

The suffix of the file is that of its format, .safetensors or .msgpack. A JSON file
beside it says what the network is, and launch/explain.py --params=FILE explains it.
"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli
from introspect_jax.errors import UserError

FLAGS = flags.FLAGS
flags.DEFINE_string("workdir", None, "Folder of the run.")
flags.DEFINE_string("output", None, "File to write: .safetensors or .msgpack.")


def main() -> None:
    for name in ("workdir", "output"):
        if not FLAGS[name].value:
            raise UserError(f"--{name} is missing")
    # Read late: a mistyped flag is answered before JAX is started.
    import jax

    from introspect_jax.machine import enable_compilation_cache
    from introspect_jax.pretrained import export
    from introspect_jax.restore import load

    enable_compilation_cache()
    run = load(FLAGS.workdir, devices=jax.local_devices()[:1])
    path, sidecar = export(run, FLAGS.output)
    print(f"{path}: the network at step {run.step:,}; what it is says {sidecar}")


if __name__ == "__main__":
    cli.run(main)
