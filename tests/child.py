"""`launch/main.py` as one of several processes, which may name the networks of tests.

    python tests/child.py LOG DEVICES FLAGS...

LOG gets the numbers of the training examples that are read, a line for each reading.
With HANG_AT in the environment it sleeps for good after that step; with SIGTERM_IN a
SIGTERM reaches it while it compiles the training step, or evaluates the first time.
"""

import os
import pathlib
import runpy
import signal
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
log, devices, *flags = sys.argv[1:]
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"

from introspect_jax import data
from introspect_jax.train.evaluator import Evaluator
from introspect_jax.train.progress import Reporter
from introspect_jax.train.trainer import Trainer

# For SIGTERM_IN.
PHASES = {"compile": (Trainer, "compile"), "evaluate": (Evaluator, "__call__")}
load, verify = data.load, data.verify


def load_watched(*given, **options):
    """Each reading of the training split is written down."""
    dataset = load(*given, **options)
    take = dataset.train.take

    def watched(positions):
        with open(log, "a") as file:
            file.write(" ".join(str(p) for p in positions) + "\n")
        return take(positions)

    object.__setattr__(dataset.train, "take", watched)
    return dataset


def verify_unwatched(*given, **options):
    """What is read before training is not written down."""
    verify(*given, **options)
    open(log, "w").close()


def advance(self, step):
    if step == int(os.environ.get("HANG_AT", 0)):
        time.sleep(10_000)


def stopped_inside(phase):
    """A SIGTERM comes in the middle of the first call of the phase."""
    kind, name = PHASES[phase]
    method, called = getattr(kind, name), []

    def watched(self, *given):
        if called:
            return method(self, *given)
        called.append(phase)
        ended = threading.Event()

        def send():
            time.sleep(0.05)
            print(f"SIGTERM, {phase} has ended: {ended.is_set()}", flush=True)
            os.kill(os.getpid(), signal.SIGTERM)

        sender = threading.Thread(target=send)
        sender.start()
        result = method(self, *given)
        ended.set()
        sender.join()
        return result

    setattr(kind, name, watched)


if os.environ.get("SIGTERM_IN"):
    stopped_inside(os.environ["SIGTERM_IN"])
data.load, data.verify = load_watched, verify_unwatched
Reporter.advance = advance
sys.argv = [str(ROOT / "launch" / "main.py"), *flags]
runpy.run_path(sys.argv[0], run_name="__main__")
