"""Writes the checkpoints of a run: the newest few and the best on validation."""

import contextlib
import shutil
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath

from introspect_jax.errors import UserError
from introspect_jax.interrupts import deferred
from introspect_jax.processes import is_first, wait_for_all
from introspect_jax.train.restoring import Meta, Restorer, describe_arrays, digest
from introspect_jax.train.state import TrainState, state_sha256

_BEING_WRITTEN = "a checkpoint is being written"


class Checkpoints(Restorer):
    """The checkpoints of the run that this process trains.

    A damaged one is moved to `damaged/`, never deleted.
    """

    def __init__(self, workdir: epath.Path, kept: int):
        """Opens them.

        Args:
          workdir: Absolute: Orbax writes from a thread.
          kept: How many of the newest stay; the best on validation comes on top.
        """
        self._damaged = workdir / "damaged"
        self._policy = _NewestAndBest(kept)
        super().__init__(workdir)
        for step in self._steps():
            try:
                self._policy.add(step, self._read_meta(step))
            except Exception:  # kept, and reported when it is this checkpoint's turn
                continue

    def _open(self) -> ocp.CheckpointManager:
        # Moved there at once and then deleted: whoever is killed while deleting files
        # leaves no checkpoint that looks damaged. Orbax does not on object stores.
        self._deleted = self._root / "deleted"
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self._policy, todelete_subdir=self._deleted.name
        )
        with self._writing():
            self._root.mkdir(parents=True, exist_ok=True)  # Orbax waits for minutes
            self._delete()
            self._writer = ocp.CheckpointManager(
                self._root, options=options, item_names=("state", "meta")
            )
        return self._writer

    def save(self, state: TrainState, meta: Meta) -> None:
        """Starts writing a checkpoint.

        Args:
          state: copied first, so the caller may donate it.
          meta: JSON-able, given back on restore; `meta["validation"]` holds the
            metrics of this state, or None, and then it is never the best.
        """
        with deferred(_BEING_WRITTEN):
            self._save(jax.tree.map(jnp.copy, state), meta)

    def _save(self, state: TrainState, meta: Meta) -> None:
        meta = meta | {
            "state_sha256": state_sha256(state),
            "arrays": describe_arrays(state),
        }
        step = int(state.step)
        self._policy.add(step, meta)
        with self._writing():
            self._delete()
            self._writer.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(state),
                    meta=ocp.args.JsonSave({"meta": meta, "sha256": digest(meta)}),
                ),
            )

    def restore_best(self, like: TrainState) -> tuple[TrainState, Meta] | None:
        """Restores the intact state with the best validation top-1; of equal ones the
        latest."""
        for step in set(self._steps()) - self._policy.known():
            # Its score could not be read: it may have been the best.
            restored = self._first_intact([step], like, needed=False)
            if restored:
                self._policy.add(step, restored[1])
        steps = [s for s in self._policy.ranked() if s in self._steps()]
        return self._first_intact(steps, like)

    def _set_aside(self, step: int) -> str:
        self._damaged.mkdir(parents=True, exist_ok=True)
        number = len(list(self._damaged.iterdir()))
        target = self._damaged / f"{step}-{number}"
        wait_for_all("damaged")  # all have counted, and none reads any more
        if is_first():
            (self._root / str(step)).rename(target)
        wait_for_all("set aside")
        self._writer.reload()
        return f"it was moved to {target}"

    def _all_damaged(self) -> str:
        return (
            f"They were moved to {str(self._damaged)!r}; the same command starts from "
            "step 0"
        )

    def _delete(self) -> None:
        if is_first() and self._deleted.exists():
            for path in self._deleted.iterdir():
                shutil.rmtree(path, ignore_errors=True)

    def newest_step(self) -> int | None:
        """Returns the step of the newest checkpoint."""
        return self._writer.latest_step()

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
          UserError: it could not be (a full disk); so does the next `save`.
        """
        with deferred(_BEING_WRITTEN), self._writing():
            self._writer.wait_until_finished()

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
        """Waits and releases the threads; raises the errors of `wait`."""
        with deferred(_BEING_WRITTEN), self._writing():
            self._writer.close()
            self._delete()
            if is_first() and self._deleted.exists():
                self._deleted.rmdir()


class _NewestAndBest:
    """Policy that selects the checkpoints that Orbax keeps.

    Its own policies read scores from files that no digest protects.
    """

    def __init__(self, kept: int):
        self._kept = kept
        self._scores: dict[int, float | None] = {}

    def add(self, step: int, meta: Meta) -> None:
        validation = meta["validation"]
        self._scores[step] = validation["top1"] if validation else None

    def known(self) -> set[int]:
        """Steps whose meta could be read."""
        return set(self._scores)

    def ranked(self) -> list[int]:
        """Steps with a score, the best first; of equal ones the latest first."""
        scores = [(score, s) for s, score in self._scores.items() if score is not None]
        return [step for _, step in sorted(scores, reverse=True)]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        steps = [info.step for info in checkpoints]
        keep = set(steps[-self._kept :])
        keep |= set([step for step in self.ranked() if step in steps][:1])
        keep |= set(steps) - self.known()  # damaged, and not yet set aside
        return [step in keep for step in steps]
