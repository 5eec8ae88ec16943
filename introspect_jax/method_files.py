"""Files that a method reads: their digests are part of the run."""

import hashlib

from etils import epath
from ml_collections import ConfigDict

from introspect_jax import methods
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute
from introspect_jax.processes import is_first, same_everywhere
from introspect_jax.train.files import read_json, write_checked_json

_RECORD = "files.json"


def at_hand(config: ConfigDict) -> bool:
    """Whether all files that the method reads are there."""
    return all(absolute(path).exists() for path in methods.files(config).values())


def digests(config: ConfigDict) -> dict[str, str]:
    """Maps each field that names a file to the SHA-256 of its content.

    Raises:
      UserError: A file cannot be read.
    """
    found = {}
    for field, path in methods.files(config).items():
        try:
            content = absolute(path).read_bytes()
        except OSError as error:
            raise UserError(
                f"{field}={path!r} cannot be read ({error.strerror or error})"
            ) from error
        found[field] = hashlib.sha256(content).hexdigest()
    return found


def record(workdir: epath.Path, config: ConfigDict) -> None:
    """Records the digests in the work folder of a run that begins; compares them with
    those of one that is continued.

    Raises:
      UserError: A file is not what it was when the run began, or cannot be read.
    """
    now = digests(config)
    if not same_everywhere(hashlib.sha256(repr(now).encode()).hexdigest()):
        raise UserError(
            f"the processes of this run see different files ({', '.join(now)}); copy "
            "the same to every host"
        )
    check_recorded(workdir, config)
    if now and is_first() and not (workdir / _RECORD).exists():
        write_checked_json(workdir / _RECORD, now)


def check_recorded(workdir: epath.Path, config: ConfigDict) -> None:
    """Raises a UserError if a file is not what it was when the run in the folder
    began; files that are not there are not compared."""
    stored = workdir / _RECORD
    if not stored.exists() or not at_hand(config):
        return
    now = digests(config)
    before = read_json(stored, *now)
    for field, sha256 in now.items():
        if before[field] != sha256:
            raise UserError(
                f"{field} is not the file that the run in {str(workdir)!r} began with "
                f"({sha256[:12]} instead of {before[field][:12]}); bring it back, or "
                "choose another --workdir"
            )
