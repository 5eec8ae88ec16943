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
* **Weight gradients.** As a convolution, the gradient of a kernel has the images of the
  batch for channels, and XLA is several times slower where these are many: 15 GFLOP/s
  for 512 images of 15x15 pixels a device, 44 for groups of 16 of them. So it is
  computed for groups of 16 images, except where maps are too small to gain.

`benchmarks/README.md` says what each of them gains.
"""

import contextlib
import ctypes
import functools
import importlib.metadata
import importlib.util
import math
import os
import pathlib
import pkgutil
import platform
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero

from introspect_jax.machine import usable_cpus

# Parameters of `mallopt` (malloc.h): M_ARENA_MAX, M_MMAP_MAX, M_TRIM_THRESHOLD and
# M_TOP_PAD. One heap for all threads, which also serves large blocks, grows by 64 MiB
# and is never made smaller; a limit is a C int, and a multiple of the page size.
_KEEP = ((-8, 1), (-4, 0), (-1, 2**31 - 4096), (-2, 1 << 26))
# Images of a device in a group, and the smallest maps that are taken so, in pixels. In
# trials those of 15x15 gained three times and those of 7x7 nothing.
_GROUP, _LEAST_PIXELS = 16, 14 * 14
_OPTIONS = {"xla_disable_hlo_passes": "cse_barrier_expander"}
# Microseconds of processor time in so many, of the control group of a container.
_LIMIT = "/sys/fs/cgroup/cpu.max"
# Whether `switch_on` was called on CPUs, and how many devices it made of the cores.
active = False
virtual_devices = 0
# Among how many devices the batches are divided that are traced now.
_sharing = 1


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
    _keep_freed_memory()
    config: Any = jax.config
    flags = os.environ.get("XLA_FLAGS", "")
    given = "xla_force_host_platform_device_count" in flags
    if devices and not given and config.jax_num_cpu_devices < 1:
        virtual_devices = _cores()
        config.update("jax_num_cpu_devices", virtual_devices)
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
        options["compiler_options"] = _OPTIONS
    return jax.jit(function, **options)


@contextlib.contextmanager
def divided_among(devices: int) -> Iterator[None]:
    """Context in which functions are traced whose batch so many devices share.

    A group of images has as many of each device; so the bits of a step depend on this
    number, not on that of the cores.
    """
    global _sharing
    before, _sharing = _sharing, devices
    try:
        yield
    finally:
        _sharing = before


def conv_general_dilated(
    lhs: jax.Array, rhs: jax.Array, *args: Any, **kwargs: Any
) -> jax.Array:
    """`jax.lax.conv_general_dilated`, faster on CPUs if the settings are on.

    For layers of Flax: `nn.Conv(..., conv_general_dilated=conv_general_dilated)`, whose
    images are `[batch, ..., channels]`.
    """
    conv: Callable = functools.partial(_conv, args, kwargs)
    if not active:
        return conv(lhs, rhs)
    if math.prod(lhs.shape[1:-1]) >= _LEAST_PIXELS:
        conv = _in_groups(conv)
    lhs = jax.lax.optimization_barrier(lhs)
    return jax.lax.optimization_barrier(conv(lhs, rhs))


def _conv(args: Any, kwargs: Any, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(lhs, rhs, *args, **kwargs)


def _in_groups(conv: Callable) -> Callable:
    """The same function of images and kernel, with a weight gradient in groups.

    The derivative by the kernel is written as the convolutions of groups of images, so
    that its transpose is a sum over them. All else is that of `conv`.
    """

    @jax.custom_jvp
    def function(lhs, rhs):
        return conv(lhs, rhs)

    @functools.partial(function.defjvp, symbolic_zeros=True)
    def jvp(primals, tangents):
        (lhs, rhs), (moved, turned) = primals, tangents
        out = function(lhs, rhs)
        parts = []
        if not isinstance(moved, SymbolicZero):
            parts.append(function(moved, rhs))
        if not isinstance(turned, SymbolicZero):
            parts.append(_grouped(conv, lhs, turned))
        return out, functools.reduce(jnp.add, parts) if parts else jnp.zeros_like(out)

    return function


def _grouped(conv: Callable, lhs: jax.Array, rhs: jax.Array) -> jax.Array:
    """`conv(lhs, rhs)`, one group of images after the other.

    A group takes images at equal distances, as many of each device, so that nothing
    moves between devices.
    """
    images = len(lhs)
    size = _GROUP * _sharing
    groups = images // size if images % size == 0 else 1
    if groups < 2:
        return conv(lhs, rhs)
    split = lhs.reshape(size, groups, *lhs.shape[1:])
    outs = [conv(split[:, group], rhs) for group in range(groups)]
    stacked = jnp.stack(outs, axis=1)
    return stacked.reshape(images, *stacked.shape[2:])
