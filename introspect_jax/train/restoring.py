"""Restores checkpoints after checking that they are intact and of this network."""

import errno
import functools
import hashlib
import json
import logging as python_logging
import pathlib
import sys
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from absl import logging
from etils import epath

from introspect_jax.errors import UserError
from introspect_jax.processes import all_agree
from introspect_jax.train.state import TrainState, state_sha256

Meta = dict[str, Any]
# Of the machine, not of the file.
_NOT_DAMAGE = (
    *(errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOSPC),
    *(errno.ENOMEM, errno.ESTALE, errno.ETIMEDOUT),
)
# How the messages of TensorStore begin, which has no other errors than ValueError.
_UNREADABLE = (
    *("PERMISSION_DENIED", "UNAVAILABLE", "UNAUTHENTICATED", "DEADLINE_EXCEEDED"),
    "RESOURCE_EXHAUSTED",
)


class Restorer:
    """Reads the checkpoints of a run and changes nothing.

    Orbax restores a file with a flipped byte without a word, so the digests of the
    state and of what is said of it are kept beside it and compared on restore. What
    does not match is passed over with a warning.
    """

    def __init__(self, workdir: epath.Path):
        """Opens the checkpoints; `workdir` is absolute."""
        silence_orbax()
        self._root = workdir / "checkpoints"
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager | None:
        """Opens the manager of Orbax; returns None if there are no checkpoints."""
        if not self._root.exists():
            return None
        # The rest is what follows from the first, which Orbax otherwise warns of.
        options = ocp.CheckpointManagerOptions(
            read_only=True, create=False, save_interval_steps=0
        )
        return ocp.CheckpointManager(
            self._root, options=options, item_names=("state", "meta")
        )

    def _steps(self) -> list[int]:
        return sorted(self._manager.all_steps()) if self._manager else []

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Meta] | None:
        """Restores the newest intact state and its meta; returns None if there is no
        checkpoint.

        Args:
          like: abstract state (shapes, dtypes, shardings).

        Raises:
          UserError: there are checkpoints, and all are damaged, or the newest is of
            another network.
        """
        steps = self._steps()
        restored = self._first_intact(steps[::-1], like)
        if restored is None and steps and self._manager:
            # The run went on meanwhile, and has deleted all of these.
            self._manager.reload()
            restored = self._first_intact(self._steps()[::-1], like)
        return restored

    def restore_all(self, like: TrainState) -> Iterator[tuple[int, TrainState]]:
        """Yields step and state of every intact checkpoint, in order."""
        for step in self._steps():
            restored = self._first_intact([step], like, needed=False)
            if restored:
                yield step, restored[0]

    def close(self) -> None:
        """Releases the threads."""
        if self._manager:
            self._manager.close()

    def _first_intact(
        self, steps: Sequence[int], like: TrainState, *, needed: bool = True
    ) -> tuple[TrainState, Meta] | None:
        problems = []
        for step in steps:
            try:
                return self._restore(step, like)
            except (MemoryError, UserError):
                raise
            except Exception as error:  # a damaged file fails in any way it likes
                if _is_of_the_machine(error):
                    raise UserError(
                        f"the checkpoint of step {step} cannot be read ({error}); "
                        "nothing was changed: run the same command again when it can"
                    ) from error
                if not (self._root / str(step)).exists():
                    continue  # the run went on, and has deleted it
                lines = str(error).splitlines() or [""]
                problem = f"{type(error).__name__}: {lines[0][:200]}"
                problems.append(f"step {step} ({problem})")
                logging.warning(
                    "the checkpoint of step %d is damaged (%s); %s and the one before "
                    "is used",
                    step,
                    problem,
                    self._set_aside(step),
                )
        if problems and needed:
            raise UserError(
                f"every checkpoint in {str(self._root)!r} is damaged: "
                f"{'; '.join(problems)}. {self._all_damaged()}"
            )
        return None

    def _set_aside(self, step: int) -> str:
        """Handles a damaged checkpoint; returns what was done, for the warning."""
        return "it was left as it is"

    def _all_damaged(self) -> str:
        return "The command of the run itself starts from step 0"

    def _read_meta(self, step: int) -> Meta:
        assert self._manager is not None
        stored = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        if digest(stored["meta"]) != stored["sha256"]:
            raise ValueError("its meta does not match its SHA-256")
        return stored["meta"]

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Meta]:
        assert self._manager is not None
        meta = self._read_meta(step)
        self._check_network(step, meta, like)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        ).state
        sha256 = state_sha256(state)
        # What one process finds damaged none of them uses.
        if not all_agree(sha256 == meta["state_sha256"]):
            raise ValueError(
                f"its SHA-256 is {sha256[:12]}, not {meta['state_sha256'][:12]}"
            )
        # Orbax may hand out buffers that it still holds; donation needs our own.
        return jax.tree.map(jnp.copy, state), meta

    def _check_network(self, step: int, meta: Meta, like: TrainState) -> None:
        """Raises a UserError if the checkpoint was written for another network."""
        here, there = describe_arrays(like), meta.get("arrays")
        if there is None or here == there:
            return
        name = next(n for n in {**there, **here} if here.get(n) != there.get(n))
        raise UserError(
            f"the checkpoint of step {step} in {str(self._root)!r} is of another "
            f"network or optimizer: {name} is {there.get(name, 'not there')} in it, "
            f"{here.get(name, 'not there')} here; use the code and data that it was "
            "written by, or another work folder"
        )


def _is_of_the_machine(error: Exception) -> bool:
    """Whether a checkpoint could not be read, which may be intact."""
    if isinstance(error, OSError):
        network = isinstance(error, ConnectionError | TimeoutError)
        return network or error.errno in _NOT_DAMAGE
    device = isinstance(error, jax.errors.JaxRuntimeError)
    return device or str(error).startswith(_UNREADABLE)


def describe_arrays(state: Any) -> dict[str, str]:
    """Maps the path of every array to dtype and shape, as in `float32[3,16]`."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): (
            f"{jnp.dtype(leaf.dtype)}[{','.join(map(str, leaf.shape))}]"
        )
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
    }


def digest(meta: Meta) -> str:
    """SHA-256 of the meta of a checkpoint."""
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


@functools.cache
def silence_orbax() -> None:
    """Suppresses stack traces that Orbax prints from its threads.

    What went wrong is in the exception that it raises.
    """

    def forgotten(error: BaseException | None) -> bool:
        trace = error.__traceback__ if error else None
        files = (frame.f_code.co_filename for frame, _ in traceback.walk_tb(trace))
        # Of TensorStore's futures, and what its threads meet when Orbax does not wait.
        words = ("tensorstore_spec", "Event loop is closed")
        return any("orbax" in pathlib.Path(file).parts for file in files) or any(
            word in str(error) for word in words
        )

    def hook(unraisable: Any) -> None:
        if not forgotten(unraisable.exc_value):
            before(unraisable)

    def keep(record: python_logging.LogRecord) -> bool:
        if str(record.msg).startswith("Given directory is read only"):
            return False  # as was asked for
        return not (record.exc_info and forgotten(record.exc_info[1]))

    before, sys.unraisablehook = sys.unraisablehook, hook
    for name in ("asyncio", "absl"):
        python_logging.getLogger(name).addFilter(keep)
