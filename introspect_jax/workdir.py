"""The folder of a run: made, checked, and written to."""

import json
import os
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from introspect_jax.config import config_hash, default_config, fields, to_json
from introspect_jax.errors import UserError
from introspect_jax.processes import is_first
from introspect_jax.train.files import write_json, write_text


def default_workdir(name: str, config: ConfigDict) -> str:
    """`runs/<config>-<hash>`: the same config resumes, another does not collide."""
    return os.path.join("runs", f"{name}-{config_hash(config)}")


def open_workdir(path: str, config: ConfigDict) -> epath.Path:
    """The folder, made if need be, as an absolute path.

    Args:
      path: absolute, relative to the current folder, or `gs://`.
      config: resolved; that of the run in the folder, if there is one.

    Raises:
      UserError: it cannot be written, or holds a run of another config.
    """
    workdir = epath.Path(path)
    if "://" not in path:
        workdir = epath.Path(os.path.abspath(path))
    stored = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if is_first():
            probe = workdir / ".writable"
            probe.write_text("")
            probe.unlink()
        if not stored.exists():
            if any((workdir / "checkpoints").glob("*")):
                raise ValueError("missing, and there are checkpoints")
            return workdir
        before = json.loads(stored.read_text())
        if not isinstance(before, dict):
            raise ValueError("not an object")
        before = fields(ConfigDict(before))
    except ImportError as error:
        raise UserError(
            f"work folder {path!r} needs a package ({error}); for gs:// folders: "
            'pip install -e ".[gcs]"'
        ) from error
    except OSError as error:
        raise UserError(
            f"work folder {path!r} cannot be written: {error}; choose another with "
            "--workdir"
        ) from error
    except ValueError as error:
        raise UserError(
            f"{str(stored)!r} is damaged ({error}); choose another --workdir, or "
            "restore that file"
        ) from error
    # A field that came with a later version had its default before.
    now = fields(ConfigDict(json.loads(to_json(config))))
    defaults = fields(ConfigDict(json.loads(to_json(default_config()))))
    before = {n: defaults[n] for n in now if n in defaults} | before
    if before != now:
        raise UserError(
            f"work folder {path!r} holds a run of another config "
            f"({_difference(before, now)}); choose another --workdir"
        )
    return workdir


def write_config(
    workdir: epath.Path, config: ConfigDict, about: dict[str, Any]
) -> None:
    """Makes the folder that of this config; called when all its parts are known to fit,
    so that a mistake leaves nothing behind that its correction would collide with.

    Args:
      workdir: Of `open_workdir`.
      config: Of the run.
      about: What is known of the data, `Dataset.describe`.
    """
    write_json(workdir / "data.json", about)
    write_text(workdir / "config.json", to_json(config))


def _difference(old: dict, new: dict) -> str:
    """The first few fields that differ."""
    names = sorted(n for n in old.keys() | new.keys() if old.get(n) != new.get(n))
    shown = [
        f"{n}: {old.get(n, 'none')!r} there, {new.get(n, 'none')!r} here"
        for n in names[:3]
    ]
    if len(names) > 3:
        shown.append(f"and {len(names) - 3} more")
    return "; ".join(shown)
