"""Trains a classifier: python launch/main.py --config=configs/digits.py"""

import pathlib
import signal
import sys

signal.signal(signal.SIGINT, signal.SIG_DFL)  # no trace while packages are imported
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

try:
    from absl import flags

    from introspect_jax import cli
except ModuleNotFoundError as error:
    sys.exit(f"error: the trainer needs {error.name}: pip install -e '.[train]'")

FLAGS = flags.FLAGS
cli.define_config_flag()
flags.declare_key_flag("config")
flags.DEFINE_string(
    "workdir",
    None,
    "Folder of the run, absolute, relative or gs://; the same command continues there. "
    "Default: runs/<config>-<hash of the resolved config>.",
)
flags.DEFINE_string(
    "coordinator",
    None,
    "host:port of the first process, where several processes share a run; TPU pods and "
    "SLURM jobs of several tasks need none of these three flags.",
)
flags.DEFINE_integer("num_processes", None, "How many processes share the run.")
flags.DEFINE_integer("process_id", None, "Which of them this is, from 0.")
cli.define_cpu_flag()


def main() -> None:
    name, config = cli.read_config()
    # Read late: a mistyped flag is answered before JAX is started.
    from introspect_jax import cpu, processes
    from introspect_jax.machine import enable_compilation_cache
    from introspect_jax.run import run

    enable_compilation_cache()
    if FLAGS.fast_cpu:
        cpu.switch_on()
    processes.start(FLAGS.coordinator, FLAGS.num_processes, FLAGS.process_id)
    with processes.until_sigterm() as should_stop:
        run(name, config, FLAGS.workdir, should_stop=should_stop)


if __name__ == "__main__":
    cli.run(main)
