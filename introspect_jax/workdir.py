"""Creates, checks and fills the work folder of a run."""

import contextlib
import json
import os
from typing import Any

from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax.config import (
    LOCATIONS,
    config_hash,
    default_config,
    fields,
    former_value,
    identity,
    to_json,
)
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute, check_writable_name
from introspect_jax.processes import is_first
from introspect_jax.train.files import read_json, write_checked_json, write_text

# What the bits of a run depend on beside its config.
_SETTINGS = "settings.json"


def default_workdir(name: str, config: ConfigDict, **known: str) -> str:
    """Returns `runs/<config>-<hash>`, the same folder for the same run only.

    Args:
      name: Of the config.
      config: Of the run.
      known: Digests of what it is made from, see `config_hash`.
    """
    return os.path.join("runs", f"{name}-{config_hash(config, **known)}")


def find_finished(name: str, config: ConfigDict) -> str | None:
    """Returns the default folder of the finished run of this config, if there is
    exactly one.

    For runs whose data or teacher are gone, so that their digests are not known. They
    are told apart by where these were.
    """
    found = []
    for path in sorted(epath.Path("runs").glob(f"{name}-*")):
        if not (path / "summary.json").exists():
            continue
        with contextlib.suppress(UserError, OSError, ValueError):
            before = _stored_fields(path / "config.json")
            now = fields(_with_absolute_paths(config))
            same_places = all(before.get(name) == now[name] for name in LOCATIONS)
            if same_places and _difference(before, config) == "":
                found.append(str(path))
    return found[0] if len(found) == 1 else None


def open_workdir(path: str, config: ConfigDict) -> epath.Path:
    """Creates the folder if necessary and returns its absolute path.

    Args:
      path: absolute, relative to the current folder, below `~`, or `gs://`.
      config: resolved; that of the run in the folder, if there is one.

    Raises:
      UserError: it cannot be written, or holds a run of another config.
    """
    workdir = absolute(path)
    check_writable_name(workdir, "work folder")
    stored = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if is_first():
            probe = workdir / ".writable"
            probe.write_text("")
            probe.unlink(missing_ok=True)  # of another process too
        if not stored.exists():
            if any((workdir / "checkpoints").glob("*")):
                raise ValueError("missing, and there are checkpoints")
            return workdir
        before = _stored_fields(stored)
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
    difference = _difference(before, config)
    if difference:
        raise UserError(
            f"work folder {path!r} holds a run of another config ({difference}); "
            "choose another --workdir"
        )
    return workdir


def _stored_fields(path: epath.Path) -> dict[str, Any]:
    """Reads the fields of a stored config; raises ValueError if there is no config in
    the file."""
    value = json.loads(path.read_text())
    if not isinstance(value, dict):
        raise ValueError("not an object")
    return fields(ConfigDict(value))


def write_config(
    workdir: epath.Path, config: ConfigDict, about: dict[str, Any]
) -> None:
    """Records config and data in the folder. It is called when all parts are known to
    fit, so that a mistake leaves no config that its correction would conflict with.

    Args:
      workdir: Of `open_workdir`.
      config: Of the run.
      about: What is known of the data, `Dataset.describe`.
    """
    write_checked_json(workdir / "data.json", about)
    write_text(workdir / "config.json", to_json(_with_absolute_paths(config)))


def recorded_settings(workdir: epath.Path) -> dict[str, Any]:
    """Returns the settings that the run was begun with (`Global.settings`), empty if
    there are none.

    Raises:
      UserError: Their file is damaged.
    """
    stored = workdir / _SETTINGS
    return read_json(stored) if stored.exists() else {}


def record_settings(workdir: epath.Path, settings: dict[str, Any]) -> None:
    """Records the settings of a run that begins. Of a run that is continued with
    others, says that it will not give the bits that it would have given."""
    before = recorded_settings(workdir)
    if not before:
        if is_first():
            write_checked_json(workdir / _SETTINGS, settings)
        return
    changed = [
        f"{name}: {before.get(name, 'none')} there, {settings.get(name, 'none')} here"
        for name in sorted(before.keys() | settings.keys())
        if before.get(name) != settings.get(name)
    ]
    if changed:
        logging.warning(
            "%s: the run was begun with other settings (%s); it goes on, and agrees "
            "with an uninterrupted one to rounding, not bit for bit",
            workdir,
            "; ".join(changed),
        )


def _with_absolute_paths(config: ConfigDict) -> ConfigDict:
    """Returns the config with absolute paths, to be read from any folder."""
    copy = ConfigDict(config.to_dict())
    for group, field in (name.split(".") for name in LOCATIONS):
        if copy[group][field]:
            copy[group][field] = os.fspath(absolute(copy[group][field]))
    return copy


def _difference(stored: dict[str, Any], config: ConfigDict) -> str:
    """Describes the first fields in which the config differs from the stored one; empty
    if none does."""
    now = identity(ConfigDict(json.loads(to_json(config))))
    # A field that came with a later version had its default before.
    defaults = fields(ConfigDict(json.loads(to_json(default_config()))))
    before = {n: defaults[n] for n in now if n in defaults} | stored
    before = {n: former_value(n, v) for n, v in before.items() if n not in LOCATIONS}
    names = sorted(n for n in before.keys() | now.keys() if before.get(n) != now.get(n))
    shown = [
        f"{n}: {before.get(n, 'none')!r} there, {now.get(n, 'none')!r} here"
        for n in names[:3]
    ]
    if len(names) > 3:
        shown.append(f"and {len(names) - 3} more")
    return "; ".join(shown)
