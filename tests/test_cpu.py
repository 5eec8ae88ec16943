"""The settings for CPUs: off in the library; devices, memory and continued runs."""

import json
import os
import subprocess
import sys

import chex
import jax
import pytest
from conftest import ROOT, Interrupted, assemble, interrupt_at

from introspect_jax import cpu, run
from introspect_jax.train.devices import sharing
from introspect_jax.train.parallel import choose_devices


def python(program, **environment):
    """Standard output of a new process, which takes the defaults of its platform."""
    kept = {
        n: v for n, v in os.environ.items() if n not in ("XLA_FLAGS", "JAX_PLATFORMS")
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


IMPORTS = """
import introspect_jax, introspect_jax.run
from introspect_jax import cpu
import jax
print(cpu.active, cpu.virtual_devices)
print(jax.config.jax_num_cpu_devices, jax.device_count())
"""


def test_importing_the_package_changes_nothing():
    assert python(IMPORTS, JAX_PLATFORMS="cpu") == ["False", "0", "-1", "1"]


SWITCHED = """
from introspect_jax import cpu
print(cpu.switch_on(), cpu.active, cpu.virtual_devices)
import jax
print(jax.device_count())
"""


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"JAX_PLATFORMS": "cpu"}, [True, True, "cores", "cores"]),
        (
            {
                "JAX_PLATFORMS": "cpu",
                "XLA_FLAGS": "--xla_force_host_platform_device_count=3",
            },
            [True, True, 0, 3],
        ),
        ({"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "3"}, [True, True, 0, 3]),
    ],
    ids=["a core a device", "by the user's flags", "by the user's variable"],
)
def test_switched_on(environment, wanted):
    cores = cpu._cores()
    wanted = [cores if value == "cores" else value for value in wanted]
    assert python(SWITCHED, **environment) == [str(value) for value in wanted]


@pytest.mark.parametrize(
    ("limit", "wanted"),
    [
        ("200000 100000", 2),
        ("50000 100000", 1),
        ("max 100000", 6),
        ("9900000 100000", 6),
    ],
)
def test_a_container_with_a_share_of_the_cores(monkeypatch, tmp_path, limit, wanted):
    (tmp_path / "cpu.max").write_text(limit + "\n")
    monkeypatch.setattr(cpu, "_LIMIT", str(tmp_path / "cpu.max"))
    monkeypatch.setattr(cpu, "usable_cpus", lambda: list(range(6)))
    assert cpu._cores() == wanted


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu", "cuda,cpu"])
def test_not_where_accelerators_are_asked_for(platforms):
    program = "from introspect_jax import cpu; print(cpu.switch_on(), cpu.active)"
    assert python(program, JAX_PLATFORMS=platforms) == ["False", "False"]


def test_not_where_a_plugin_may_find_an_accelerator(tmp_path):
    (tmp_path / "jax_plugins").mkdir()
    (tmp_path / "jax_plugins" / "made_up.py").write_text("def initialize(): pass")
    program = "from introspect_jax import cpu; print(cpu.switch_on(), cpu.active)"
    paths = os.pathsep.join([str(ROOT), str(tmp_path)])
    assert python(program, PYTHONPATH=paths) == ["False", "False"]
    assert python(program, PYTHONPATH=paths, JAX_PLATFORMS="cpu") == ["True", "True"]


FAULTS = """
import resource
from introspect_jax import cpu
if SWITCH:
    cpu.switch_on()
import jax, jax.numpy as jnp
step = jax.jit(lambda x: x[::-1] / 2 + 1)
x = jnp.ones((4096, 4096))
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
counted = []
for _ in range(12):
    before = faults()
    for _ in range(5):
        x = step(x).block_until_ready()
    counted.append((faults() - before) // 5)
print(min(counted))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_memory_is_kept():
    """A result of 64 MiB, 16,384 pages; the heap first grows to what it needs, so that
    the fewest faults of several turns count."""

    def faults(switch):
        program = FAULTS.replace("SWITCH", repr(switch))
        return int(python(program, JAX_PLATFORMS="cpu")[0])

    assert faults(False) > 16_000
    assert faults(True) < 100


def test_jax_that_has_started_is_told_so_and_nothing_changes(monkeypatch):
    jax.devices()
    monkeypatch.setattr(cpu, "active", False)
    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(RuntimeError, match="before backends are initialized"):
        cpu.switch_on()
    assert not cpu.active
    assert cpu.virtual_devices == 0


def test_options_of_the_compiler_are_added_to_those_of_users(active):
    function = cpu.jit(lambda x: x + 1, compiler_options={"no_such_option": 1})
    with pytest.raises(jax.errors.JaxRuntimeError, match="no_such_option"):
        function(1.0)


def counts(*sizes, count=0):
    return len(sharing(*sizes, count=count))


def test_as_many_devices_as_divide_the_batches():
    """Of the eight that there are here."""
    assert counts(128, 256) == 8
    assert counts(12, 256) == 4
    assert counts(36) == 6
    assert counts(33, 256) == 1
    assert counts(7) == 7
    assert counts(128, 256, 4) == 4
    # As many as a run was begun on, if they can be had.
    assert counts(128, 256, count=2) == 2
    assert counts(128, 256, count=16) == 8
    assert counts(12, count=8) == 6
    assert sharing(12, count=3) == jax.devices()[:3]


def test_devices_of_a_run(digits_config, monkeypatch):
    digits_config.batch_size, digits_config.eval_batch_size = 36, 72
    assert choose_devices(digits_config) == jax.devices()  # the user's own number
    monkeypatch.setattr(cpu, "virtual_devices", 8)
    assert len(choose_devices(digits_config)) == 6
    assert len(choose_devices(digits_config, 2)) == 2
    digits_config.parallel.mode, digits_config.parallel.replicas = "pmapped", 4
    assert len(choose_devices(digits_config)) == 4


@pytest.mark.fused
def test_one_and_two_devices_agree_to_rounding(digits_config, active):
    """After two steps: later, rounding grows as in any training."""
    digits_config.optimizer.learning_rate = 0.01
    digits_config.model.name = "tiny:build_paired"
    states = []
    for devices in (1, 2):
        made = assemble(digits_config, devices)
        state, batches = made.init_state(), made.batches()
        for _ in range(2):
            state, _ = made.train_step(state, next(batches))
        states.append(jax.device_get((state.params, state.model_state)))
    chex.assert_trees_all_close(*states, rtol=1e-4, atol=1e-5)


def trained(config, path):
    return run.run("digits", config.lock(), str(path), pictures=False)


def test_a_continued_run_gives_the_same_bits(
    digits_config, tmp_path, monkeypatch, active
):
    whole = trained(digits_config, tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        with pytest.raises(Interrupted):
            trained(digits_config, tmp_path / "parts")
    assert (
        trained(digits_config, tmp_path / "parts")["state_sha256"]
        == (whole["state_sha256"])
    )


def test_a_continued_run_takes_the_number_of_cores_that_it_had(
    digits_config, tmp_path, monkeypatch, active, caplog
):
    """Begun on two of them, continued where there are eight, then without settings."""
    monkeypatch.setattr(cpu, "virtual_devices", 8)
    eight = jax.devices()
    with monkeypatch.context() as patch:
        interrupt_at(patch, 6)
        patch.setattr(jax, "local_device_count", lambda: 2)
        with pytest.raises(Interrupted):
            trained(digits_config, tmp_path)
    recorded = json.loads((tmp_path / "settings.json").read_text())
    assert (
        recorded.items() >= {"devices": 2, "platform": "cpu", "fast_cpu": True}.items()
    )
    with monkeypatch.context() as patch:
        interrupt_at(patch, 8)
        with pytest.raises(Interrupted):
            trained(digits_config, tmp_path)
    assert "other settings" not in caplog.text
    monkeypatch.setattr(cpu, "virtual_devices", 0)
    monkeypatch.setattr(cpu, "active", False)
    assert trained(digits_config, tmp_path)["device"]["count"] == len(eight)
    assert "devices: 2 there, 8 here; fast_cpu: True there, False here" in caplog.text
    assert json.loads((tmp_path / "settings.json").read_text()) == recorded
