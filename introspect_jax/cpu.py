"""Settings with which XLA trains faster on CPUs; off unless `switch_on` is called.

They change the whole process, so only commands switch them on: `launch/`, the workers
of studies and the benchmarks, before anything asks JAX for a device. On a machine with
an accelerator, and in a program that imports this package, nothing changes.

* **Memory.** XLA takes the temporaries of a step from `malloc` and frees them at its
  end. glibc returns blocks of that size to the system, which has to clear their pages
  again in the next step: 37,000 page faults a step of ResNet-20. With these settings
  glibc keeps them.
* **Devices.** Many kernels of XLA use one thread. Each core becomes a device, and the
  batch is divided among them.
* **Barriers.** For the weight gradient of a convolution, XLA transposes both factors,
  and computes again within the transposition what they were made from. Barriers around
  each convolution forbid that. XLA for CPUs removes barriers before it fuses
  operations, so the pass that removes them is disabled as well.
* **Convolutions** that XLA is slow at are computed in other forms, see
  `introspect_jax.convolutions`.

`benchmarks/README.md` says what each of them gains.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import pkgutil
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax

from introspect_jax.machine import usable_cpus

# Parameters of `mallopt` (malloc.h): M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and
# M_TOP_PAD. One heap for all threads, which also serves large blocks, grows by 64 MiB
# and is never made smaller; a limit is a C int, and a multiple of the page size.
_KEEP = ((-8, 1), (-4, 0), (-1, 2**31 - 4096), (-2, 1 << 26))
_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Microseconds of processor time in so many, of the control group of a container.
_LIMIT = "/sys/fs/cgroup/cpu.max"
# Whether `switch_on` was called on CPUs, and how many devices it made of the cores.
active = False
virtual_devices = 0
# How many devices share the batches that are traced now.
devices_of_batch = 1


def switch_on(*, devices: bool = True) -> bool:
    """Switches the settings on if JAX will use CPUs; returns whether it will.

    Call it before anything asks JAX for a device. A number of devices that the user has
    set, in `XLA_FLAGS` or `JAX_NUM_CPU_DEVICES`, stays.

    Where JAX has a plugin for accelerators and finds none, this does nothing, unless
    `JAX_PLATFORMS=cpu` says that CPUs are wanted.

    Args:
      devices: Whether each core becomes a device.
    """
    global active, virtual_devices
    if not _only_cpus():
        return False
    config: Any = jax.config
    flags = os.environ.get("XLA_FLAGS", "")
    given = "xla_force_host_platform_device_count" in flags
    if devices and not given and config.jax_num_cpu_devices < 1:
        cores = _cores()
        config.update("jax_num_cpu_devices", cores)  # fails if JAX has started
        virtual_devices = cores
    _keep_freed_memory()
    active = True
    return True


def _cores() -> int:
    """How many cores this process gets: containers may limit their share of time."""
    cores = len(usable_cpus())
    with contextlib.suppress(OSError, ValueError):
        quota, period = pathlib.Path(_LIMIT).read_text().split()
        if quota != "max":
            cores = min(cores, max(1, int(quota) // int(period)))
    return cores


def _only_cpus() -> bool:
    """Whether JAX has nothing but CPUs here. Asking it would start it."""
    config: Any = jax.config
    if config.jax_platforms:
        return str(config.jax_platforms) == "cpu"
    plugins = importlib.util.find_spec("jax_plugins")
    places = plugins.submodule_search_locations if plugins else None
    return not (
        any(pkgutil.iter_modules(places or []))
        or importlib.metadata.entry_points(group="jax_plugins")
        or importlib.util.find_spec("libtpu")
    )


def _keep_freed_memory() -> None:
    """Has glibc keep freed memory; nothing where there is another C library."""
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        for parameter, value in _KEEP:
            library.mallopt(parameter, value)


def jit(function: Callable, **options: Any) -> Any:
    """`jax.jit` for a function that is not called from another jitted one, compiled so
    that the barriers of its convolutions stay, if the settings are on."""
    if active:
        options["compiler_options"] = _OPTIONS | (options.get("compiler_options") or {})
    return jax.jit(function, **options)


@contextlib.contextmanager
def divided_among(devices: int) -> Iterator[None]:
    """Context in which functions are traced whose batch so many devices share.

    This and `switched_off` are of the whole process: functions are traced by one thread
    at a time. A function that was traced before keeps its program.
    """
    global devices_of_batch
    before, devices_of_batch = devices_of_batch, devices
    try:
        yield
    finally:
        devices_of_batch = before


@contextlib.contextmanager
def switched_off() -> Iterator[None]:
    """Context in which functions are traced as if the settings were off."""
    global active
    before, active = active, False
    try:
        yield
    finally:
        active = before
