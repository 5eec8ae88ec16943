"""Eight virtual devices, tiny networks, small data: no network, no files outside."""

import os

# "" is whatever JAX finds: tests of numbers run on accelerators too, by
# benchmarks/accelerator.sh.
os.environ["JAX_PLATFORMS"] = os.environ.get("INTROSPECT_TEST_PLATFORM", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import pathlib
import sys
import tempfile

# Many tests compile the same program: the workers of pytest-xdist and the commands
# that tests start share what one has compiled. It is removed when the first ends.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    COMPILED = tempfile.TemporaryDirectory(prefix="introspect-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# The shapes and types in the library's signatures hold at run time too.
LIBRARY = ("arrays", "explain", "introspection", "objectives")
jaxtyping.install_import_hook(
    [f"introspect_jax.{room}" for room in LIBRARY], "beartype.beartype"
)

import quick
from commands import commands
from tiny import TINY, build_tiny

from introspect_jax import cpu, data
from introspect_jax.config import default_config
from introspect_jax.methods import Teacher, teacher_kind
from introspect_jax.models import init_variables
from introspect_jax.train.progress import Reporter
from introspect_jax.train.trainer import build

quick.install()


def pytest_ignore_collect(collection_path):
    """Of this folder only files of tests are collected, not those that they import."""
    if collection_path.suffix == ".py" and ROOT / "tests" in collection_path.parents:
        return None if collection_path.name.startswith("test_") else True
    return None


@pytest.fixture(scope="session")
def command():
    """`(script of launch/, *arguments, folder=...) -> Done`."""
    with commands() as run:
        yield run


@pytest.fixture
def active(monkeypatch):
    """The settings for CPUs, as after `cpu.switch_on`, in this process."""
    monkeypatch.setattr(cpu, "active", True)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True)
def quick_compile(request):
    """Programs that run a few times are not worth optimising.

    Except where a test is of what the compiler makes of an explanation: compilers were
    seen to get their sums wrong.
    """
    optimised = request.node.get_closest_marker("optimised") is not None
    fused = request.node.get_closest_marker("fused") is not None
    jax.config.update("jax_disable_most_optimizations", not optimised)
    quick.active = not (optimised or fused)


def of_the_library(request) -> bool:
    """Whether it is a test of what other projects import."""
    rooms = {request.path.parent.name, request.path.stem.removeprefix("test_")}
    return bool(rooms & set(LIBRARY))


@pytest.fixture(autouse=True)
def check_types(request):
    """In tests of the library signatures are checked, except where the test is of its
    own errors."""
    untyped = request.node.get_closest_marker("untyped") is not None
    disable = untyped or not of_the_library(request)
    jaxtyping.config.update("jaxtyping_disable", disable)


@pytest.fixture(autouse=True)
def strict_promotion(request):
    """In tests of the library, arrays of other ranks or types are never mixed."""
    if of_the_library(request):
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            yield
    else:
        yield


@pytest.fixture
def tiny_teacher():
    """A teacher for the digits, of random values."""
    params, state = jax.jit(lambda key: init_variables(build_tiny(10), (8, 8, 1), key))(
        jax.random.key(7)
    )
    means = np.random.RandomState(0).dirichlet(np.ones(10), 10)
    return Teacher({"params": params, **state}, lambda temperature: means)


@pytest.fixture
def digits_config():
    """Twelve steps of a tiny network on the digits."""
    config = default_config()
    config.model.name = TINY
    config.data.name = "digits"
    config.data.augment.crop_padding = 1
    config.batch_size = 32
    config.eval_batch_size = 64
    config.total_steps = 12
    config.log_steps = 2
    config.eval_steps = 4
    config.checkpoint_steps = 2
    return config


class Made:
    """A trainer whose constants are known."""

    def __init__(self, trainer, teacher):
        self.trainer = trainer
        self.constants = trainer.constants(teacher)

    def __getattr__(self, name):
        return getattr(self.trainer, name)

    def batches(self, start=0):
        return self.trainer.batches(self.constants, start)


def assemble(config, devices=1, dataset=None, teacher=None):
    """`Made` of a config; methods that need a teacher get a tiny one."""
    dataset = dataset or data.load(config.data)
    needed = teacher_kind(config.method.name) is not None
    network = build_tiny(dataset.num_classes) if needed else None
    trainer = build(config, dataset, jax.devices()[:devices], teacher=network)
    return Made(trainer, teacher if needed else None)


@pytest.fixture
def experiment(digits_config, tiny_teacher):
    """`(devices=1, **fields) -> Made` of the digits."""

    def make(devices=1, **changes):
        digits_config.update_from_flattened_dict(changes)
        return assemble(digits_config, devices, teacher=tiny_teacher)

    return make


@pytest.fixture
def smooth_net():
    """`(logits_fn, inputs [4, 3, 3, 2], labels, classes)`, float64 under `x64`."""
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (4, 3, 3, 2))
    first = jax.random.normal(keys[1], (18, 7))
    second = jax.random.normal(keys[2], (7, 5))
    bias = jax.random.normal(keys[3], (5,))

    def logits_fn(x):
        return jnp.tanh(x.reshape(len(x), -1) @ first) @ second + bias[None]

    return logits_fn, inputs, jnp.array([0, 3, 2, 4]), 5


class Interrupted(Exception):
    pass


def interrupt_at(monkeypatch, step):
    """The loop is left when it logs this step, with whatever was saved until then."""
    log = Reporter.log

    def leaving(self, now, values):
        if now == step:
            raise Interrupted
        return log(self, now, values)

    monkeypatch.setattr(Reporter, "log", leaving)
