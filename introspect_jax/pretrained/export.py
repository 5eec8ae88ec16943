"""Writes the network of a run to one file, for other programs."""

import os
from typing import Any

from etils import epath

from introspect_jax import models
from introspect_jax.errors import UserError
from introspect_jax.machine import describe_versions
from introspect_jax.paths import absolute
from introspect_jax.pretrained import files, sidecar
from introspect_jax.restore import Run


def export(run: Run, output: str | os.PathLike) -> tuple[epath.Path, epath.Path]:
    """Writes the variables of a run and their sidecar.

    `pretrained.load(output)` is the same network, to the bit.

    Args:
      run: Of `restore.load`.
      output: The file; its suffix, `.safetensors` or `.msgpack`, is that of the format.

    Returns:
      The paths of the two files.

    Raises:
      UserError: Another suffix, or they cannot be written.
    """
    path = absolute(output)
    files.check_name(path)
    if path.is_dir():
        raise UserError(f"--output {str(output)!r} is a folder; give a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--output {str(output)!r} cannot be written: {error}"
        ) from error
    files.write(path, run.variables)
    return path, sidecar.write(path, describe(run))


def describe(run: Run) -> dict[str, Any]:
    """The content of the sidecar, without the digest of the file."""
    config = run.config
    return {
        "network": {
            "name": config.model.name,
            "options": models.options(config.model),
        },
        "classes": list(run.class_names),
        "image_shape": list(run.image_shape),
        "dtype": run.dtype,
        "preprocessing": {
            "mean": list(run.preprocess.mean),
            "std": list(run.preprocess.std),
            "resize": run.resize,
            "size": list(run.preprocess.size),
        },
        "explain": run.explain.to_dict(),
        "trained_by": {
            "method": config.method.name,
            "data": config.data.name,
            "seed": config.seed,
            "step": run.step,
            "state_sha256": run.state_sha256,
        },
        "versions": describe_versions(),
    }
