"""Checkpoints that are known to be whole: Orbax, and a SHA-256 beside each."""

import contextlib
import errno
import functools
import hashlib
import json
import logging as python_logging
import pathlib
import shutil
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
from introspect_jax.processes import all_agree, is_first, wait_for_all
from introspect_jax.train.state import TrainState, state_sha256

Meta = dict[str, Any]
# Of the machine, not of the file.
_NOT_DAMAGE = (errno.EIO, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENOSPC)


class Checkpoints:
    """The checkpoints of a run: the newest few and the best on validation.

    Orbax restores a file with a flipped byte without a word, so the digests of the
    state and of what is said of it are kept beside it and compared on restore. What
    does not match is moved to `damaged/`, never deleted.
    """

    def __init__(self, workdir: epath.Path, kept: int):
        """`workdir` is absolute: Orbax writes from a thread."""
        _silence_orbax()
        self._root = workdir / "checkpoints"
        self._damaged = workdir / "damaged"
        self._policy = _NewestAndBest(kept)
        # Moved there at once and then deleted: whoever is killed while deleting files
        # leaves no checkpoint that looks damaged. Orbax does not on object stores.
        self._deleted = self._root / "deleted"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, todelete_subdir=self._deleted.name
        )
        with self._writing():
            self._root.mkdir(parents=True, exist_ok=True)  # Orbax waits for minutes
            self._delete()
            self._manager = ocp.CheckpointManager(
                self._root, options=options, item_names=("state", "meta")
            )
        for step in self._manager.all_steps():
            try:
                self._policy.add(step, self._read_meta(step))
            except Exception:  # kept, and reported when it is this checkpoint's turn
                continue

    def save(self, state: TrainState, meta: Meta) -> None:
        """Starts writing.

        Args:
          state: copied first, so the caller may donate it.
          meta: JSON-able, given back on restore; `meta["validation"]` holds the
            metrics of this state, or None, and then it is never the best.
        """
        state = jax.tree.map(jnp.copy, state)
        meta = meta | {"state_sha256": state_sha256(state)}
        step = int(state.step)
        self._policy.add(step, meta)
        with self._writing():
            self._delete()
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({"meta": meta, "sha256": _digest(meta)}),
                ),
            )

    def restore_newest(self, like: TrainState) -> tuple[TrainState, Meta] | None:
        """The newest intact state and its meta, or None if there is no checkpoint.

        Args:
          like: abstract state (shapes, dtypes, shardings).

        Raises:
          UserError: there are checkpoints, and all are damaged.
        """
        return self._first_intact(sorted(self._manager.all_steps(), reverse=True), like)

    def restore_best(self, like: TrainState) -> tuple[TrainState, Meta] | None:
        """The intact state with the best validation top-1, the later one in a tie."""
        for step in set(self._manager.all_steps()) - self._policy.known():
            # Its score could not be read: it may have been the best.
            found = self._first_intact([step], like, needed=False)
            if found:
                self._policy.add(step, found[1])
        steps = [s for s in self._policy.ranked() if s in self._manager.all_steps()]
        return self._first_intact(steps, like)

    def restore_all(self, like: TrainState) -> Iterator[tuple[int, TrainState]]:
        """Step and state of every checkpoint that is kept and intact, in order."""
        for step in sorted(self._manager.all_steps()):
            restored = self._first_intact([step], like, needed=False)
            if restored:
                yield step, restored[0]

    def _first_intact(
        self, steps: Sequence[int], like: TrainState, *, needed: bool = True
    ) -> tuple[TrainState, Meta] | None:
        problems = []
        for step in steps:
            try:
                return self._restore(step, like)
            except MemoryError:
                raise
            except Exception as error:  # a damaged file fails in any way it likes
                if isinstance(error, OSError) and error.errno in _NOT_DAMAGE:
                    raise UserError(
                        f"the checkpoint of step {step} cannot be read ({error}); "
                        "nothing was changed: run the same command again when it can"
                    ) from error
                lines = str(error).splitlines() or [""]
                problem = f"{type(error).__name__}: {lines[0][:200]}"
                problems.append(f"step {step} ({problem})")
                logging.warning(
                    "the checkpoint of step %d is damaged (%s); it was moved to %s and "
                    "the one before is used",
                    step,
                    problem,
                    self._set_aside(step),
                )
        if problems and needed:
            raise UserError(
                f"every checkpoint in {str(self._root)!r} is damaged: "
                f"{'; '.join(problems)}. They were moved to {str(self._damaged)!r}; "
                "the same command starts from step 0"
            )
        return None

    def _read_meta(self, step: int) -> Meta:
        stored = self._manager.restore(
            step, args=ocp.args.Composite(meta=ocp.args.JsonRestore())
        ).meta
        if _digest(stored["meta"]) != stored["sha256"]:
            raise ValueError("its meta does not match its SHA-256")
        return stored["meta"]

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Meta]:
        meta = self._read_meta(step)
        state = self._manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        ).state
        digest = state_sha256(state)
        # What one process finds damaged none of them uses.
        if not all_agree(digest == meta["state_sha256"]):
            raise ValueError(
                f"its SHA-256 is {digest[:12]}, not {meta['state_sha256'][:12]}"
            )
        # Orbax may hand out buffers that it still holds; donation needs our own.
        return jax.tree.map(jnp.copy, state), meta

    def _set_aside(self, step: int) -> epath.Path:
        self._damaged.mkdir(parents=True, exist_ok=True)
        number = len(list(self._damaged.iterdir()))
        target = self._damaged / f"{step}-{number}"
        wait_for_all("damaged")  # all have counted, and none reads any more
        if is_first():
            (self._root / str(step)).rename(target)
        wait_for_all("set aside")
        self._manager.reload()
        return target

    def _delete(self) -> None:
        if is_first() and self._deleted.exists():
            for path in self._deleted.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Returns when everything is written.

        Raises:
          UserError: it could not be (a full disk); so does the next `save`.
        """
        with self._writing():
            self._manager.wait_until_finished()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax, TensorStore and file systems each have many
            line = (str(error).splitlines() or [""])[0][:200]
            raise UserError(
                f"checkpoints cannot be written to {str(self._root)!r} "
                f"({type(error).__name__}: {line}); what was saved is kept: make "
                "room, then run the same command"
            ) from error

    def close(self) -> None:
        """Waits and frees the threads; see `wait` for its errors."""
        with self._writing():
            self._manager.close()
            self._delete()
            if is_first() and self._deleted.exists():
                self._deleted.rmdir()


class _NewestAndBest:
    """Which checkpoints Orbax keeps.

    Its own policies read scores from files that no digest protects.
    """

    def __init__(self, kept: int):
        self._kept = kept
        self._scores: dict[int, float | None] = {}

    def add(self, step: int, meta: Meta) -> None:
        validation = meta["validation"]
        self._scores[step] = validation["top1"] if validation else None

    def known(self) -> set[int]:
        """Steps whose meta was read."""
        return set(self._scores)

    def ranked(self) -> list[int]:
        """Steps with a score, the best first, the later first in a tie."""
        scores = [(score, s) for s, score in self._scores.items() if score is not None]
        return [step for _, step in sorted(scores, reverse=True)]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = [info.step for info in checkpoints]
        keep = set(steps[-self._kept :])
        keep |= set([step for step in self.ranked() if step in steps][:1])
        keep |= set(steps) - self.known()  # damaged, and not yet set aside
        return [step in keep for step in steps]


@functools.cache
def _silence_orbax() -> None:
    """Orbax prints no stack traces, in its threads or of tasks that it forgets.

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
        return not (record.exc_info and forgotten(record.exc_info[1]))

    before, sys.unraisablehook = sys.unraisablehook, hook
    for name in ("asyncio", "absl"):
        python_logging.getLogger(name).addFilter(keep)


def _digest(meta: Meta) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()
