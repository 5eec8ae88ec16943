"""Describes hardware and software of a run, for its summary."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import re
import subprocess
from typing import Any

import jax

import introspect_jax

# Whether other runs of a study use the same accelerator at the same time.
shares_accelerator = False
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def usable_cpus() -> list[int]:
    """Returns the processors that this process may use, or all if the system cannot
    tell."""
    usable = getattr(os, "sched_getaffinity", None)
    return sorted(usable(0)) if usable else list(range(os.cpu_count() or 1))


def enable_compilation_cache() -> None:
    """Shares compiled programs among all commands and all workers of a study.

    The folder is the user's own (`JAX_COMPILATION_CACHE_DIR` sets it), not one of a
    run, which may come from elsewhere: what is in it is run.
    """
    if not jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(home, "introspect_jax", "compiled")
        jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def describe_device(count: int) -> dict[str, Any]:
    """Returns platform, kind and number of the devices of a run, the processors of the
    host, and `shared` if other runs used the devices at the same time."""
    return {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": count,
        "host_cpus": os.cpu_count(),
        "cpus_used": len(usable_cpus()),
        "cpu_model": _cpu_model(),
        **({"shared": True} if shares_accelerator else {}),
    }


def describe_versions() -> dict[str, str | None]:
    """Returns the versions of Python, of this package and of the packages that results
    depend on. `revision` is the commit of the checkout, with `-changed` if files differ
    from it, or None."""
    return {
        "python": platform.python_version(),
        "introspect_jax": introspect_jax.__version__,
        "revision": _revision(),
        **{name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def _cpu_model() -> str | None:
    try:
        text = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or None
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1] if found else None


@functools.cache
def _revision() -> str | None:
    root = pathlib.Path(introspect_jax.__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        return subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty=-changed"],
            cwd=root,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
