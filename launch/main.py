"""Trains a classifier: python launch/main.py --config=configs/digits.py"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import flags

from introspect_jax import cli

cli.define_config_flag()
flags.declare_key_flag("config")
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, absolute, relative or gs://; the same command continues there. "
    "Default: runs/<config>-<hash of the resolved config>.",
)


def main() -> None:
    name, config = cli.read_config()
    # Read late: a mistyped flag is answered before JAX is started.
    from introspect_jax.run import run

    run(name, config, flags.FLAGS.workdir)


if __name__ == "__main__":
    cli.run(main)
