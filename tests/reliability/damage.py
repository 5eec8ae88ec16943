"""Damages every file of a checkpoint and of a work folder in turn.

A damaged checkpoint must give way to the one before it with a warning, or end in an
error of one line if there is none; what is restored must be what was saved, bit for
bit. python tests/reliability/damage.py [--json=FILE]
"""

import collections
import gc
import itertools
import logging
import pathlib
import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import workfolders
from etils import epath

from introspect_jax.errors import UserError
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.state import TrainState, state_sha256

Damage = Callable[[bytes], bytes | None]
STEPS = (1, 2, 3)
BEST = 2


def damages(size: int, flips: int) -> Iterator[tuple[str, Damage]]:
    """Names and functions of the content; None removes the file.

    Args:
      size: of the file, in bytes.
      flips: at how many places, evenly spread, one bit is turned; all, if there are
        fewer bytes.
    """
    yield "removed", lambda content: None
    if not size:
        yield "grown", lambda content: b"\0"
        return
    yield "emptied", lambda content: b""
    yield "halved", lambda content: content[: size // 2]
    yield "last byte lost", lambda content: content[:-1]
    yield "zeroed", lambda content: bytes(size)
    chosen = random.Random(size)
    count = min(size, flips)
    for place in sorted(
        {round(i * (size - 1) / max(count - 1, 1)) for i in range(count)}
    ):
        bit = chosen.randrange(8)

        def flip(content: bytes, place=place, bit=bit) -> bytes:
            turned = bytes([content[place] ^ 1 << bit])
            return content[:place] + turned + content[place + 1 :]

        yield f"byte {place} of {size}, bit {bit}", flip


def apply(path: pathlib.Path, damage: Damage) -> None:
    """Changes the file in its place."""
    content = damage(path.read_bytes())
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def state_at(step: int) -> TrainState:
    """A small state, another one for every step."""
    keys = jax.random.split(jax.random.key(step), 3)
    params = {
        "kernel": jax.random.normal(keys[0], (16, 8)),
        "bias": jax.random.normal(keys[1], (8,), jnp.bfloat16),
    }
    return TrainState(
        step=jnp.int32(step),
        params=params,
        model_state={"mean": jax.random.normal(keys[2], (8,))},
        opt_state=(jax.tree.map(jnp.zeros_like, params), jnp.int32(step)),
        average=None,
        method_state={},
    )


def state_like() -> TrainState:
    """The abstract state of all of them."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
        state_at(0),
    )


def meta_of(step: int) -> dict:
    return {
        "seconds": float(step),
        "validation": {"top1": 0.9 if step == BEST else 0.5},
    }


class Warnings(logging.Handler):
    """What was warned of since `lines` was emptied."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []
        logging.getLogger("absl").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def written(folder: pathlib.Path, steps=STEPS) -> pathlib.Path:
    """A work folder with these checkpoints."""
    checkpoints = Checkpoints(epath.Path(folder), len(STEPS))
    for step in steps:
        checkpoints.save(state_at(step), meta_of(step))
    checkpoints.close()
    return folder


def restored(folder: pathlib.Path, which: str) -> str:
    """Restores, saves once more, and tells what came of it.

    Args:
      folder: the work folder.
      which: "newest" or "best".

    Returns:
      `step N`, or `error`, or what is wrong.
    """
    checkpoints = None
    try:
        checkpoints = Checkpoints(epath.Path(folder), len(STEPS))
        found = getattr(checkpoints, f"restore_{which}")(state_like())
        outcome = "nothing"
        if found:
            step = int(found[0].step)
            right = state_sha256(found[0]) == state_sha256(state_at(step))
            said = {name: found[1][name] for name in ("seconds", "validation")}
            right = right and said == meta_of(step)
            outcome = f"step {step}" if right else "a wrong state"
        if which == "newest" and found and int(found[0].step) < STEPS[-1]:
            # The run goes on and comes to the same step again.
            checkpoints.save(state_at(STEPS[-1]), meta_of(STEPS[-1]))
            checkpoints.wait()
            again = checkpoints.restore_newest(state_like())
            if not again or int(again[0].step) != STEPS[-1]:
                outcome = f"{outcome}, and what is saved then is not restored"
        return outcome
    except UserError as error:
        return "error" if "\n" not in str(error) else "an error of several lines"
    except Exception as error:
        return f"a stack trace: {type(error).__name__}: {str(error)[:200]}"
    finally:
        if checkpoints:
            checkpoints.close()


def judge(kind: str, outcome: str, lines: list[str]) -> bool:
    """Whether damage to the newest, the best or the only checkpoint ended well.

    Unharmed (a file that holds nothing that is needed), or a warning that names the
    step and the next one, or an error.
    """
    step = {"newest": STEPS[-1], "best": BEST, "only": STEPS[0]}[kind]
    if outcome == f"step {step}":
        return True
    warned = any(f"step {step} " in line for line in lines)
    if kind == "only":
        return outcome == "error" and warned
    following = {"newest": STEPS[-2], "best": STEPS[-1]}[kind]
    return outcome == f"step {following}" and warned


def check_checkpoints(scratch: pathlib.Path, flips: int, every: int = 1) -> list[dict]:
    """Every file x every damage, of the newest, the best and the only checkpoint.

    Args:
      scratch: a folder.
      flips: see `damages`.
      every: of how many cases one is tried.
    """
    rows = []
    number = itertools.count()
    heard = Warnings()
    several = written(scratch / "several")
    single = written(scratch / "single", STEPS[:1])
    for kind, whole, step in (
        ("newest", several, STEPS[-1]),
        ("best", several, BEST),
        ("only", single, STEPS[0]),
    ):
        top = whole / "checkpoints" / str(step)
        for path in sorted(p for p in top.rglob("*") if p.is_file()):
            for name, damage in damages(path.stat().st_size, flips):
                if next(number) % every:
                    continue
                folder = scratch / "case"
                shutil.copytree(whole, folder)
                apply(folder / path.relative_to(whole), damage)
                heard.lines = []
                outcome = restored(folder, "best" if kind == "best" else "newest")
                rows.append(
                    {
                        "checkpoint": kind,
                        # Names of array files are random.
                        "file": "/".join(
                            part if len(part) < 32 else "<array file>"
                            for part in path.relative_to(top).parts
                        ),
                        "damage": name,
                        "outcome": outcome,
                        "ok": judge(kind, outcome, heard.lines),
                    }
                )
                shutil.rmtree(folder)
    logging.getLogger("absl").removeHandler(heard)
    return rows


def check_strays(scratch: pathlib.Path) -> list[dict]:
    """What does not belong beside the folders of the steps."""

    def cut(root: pathlib.Path) -> None:
        shutil.copytree(root / "3", root / "4.orbax-checkpoint-tmp")
        (root / "4.orbax-checkpoint-tmp" / "commit_success.txt").unlink(missing_ok=True)

    strays: dict[str, Callable[[pathlib.Path], object]] = {
        "an unfinished checkpoint": cut,
        "an empty folder with a step's name": lambda root: (root / "4").mkdir(),
        "a file with a step's name": lambda root: (root / "4").write_text("x"),
        "a file": lambda root: (root / "notes.txt").write_text("x"),
        "a folder": lambda root: (root / "older").mkdir(),
    }
    rows = []
    whole = written(scratch / "strays")
    for name, add in strays.items():
        folder = scratch / "case"
        shutil.copytree(whole, folder)
        add(folder / "checkpoints")
        outcome = restored(folder, "newest")
        rows.append({"stray": name, "outcome": outcome, "ok": outcome == "step 3"})
        shutil.rmtree(folder)
    return rows


def main() -> None:
    # They need what is above.
    import damaged_files
    import damaged_runs

    options = workfolders.arguments(__doc__)
    traces: list[str] = []  # of threads and forgotten tasks
    sys.unraisablehook = lambda unraisable: traces.append(str(unraisable.exc_value))
    asyncio_log = logging.getLogger("asyncio")
    asyncio_log.addHandler(logging.StreamHandler())
    asyncio_log.handlers[-1].emit = lambda record: traces.append(record.getMessage())
    with tempfile.TemporaryDirectory() as name:
        scratch = pathlib.Path(name)
        rows = check_checkpoints(scratch, flips=10)
        rows += check_strays(scratch)
        rows += damaged_files.check_files(scratch / "files", flips=300)
        rows += damaged_runs.check_runs(scratch / "runs")
    gc.collect()  # what was left behind speaks now or never
    rows.append({"stack traces of threads": traces[:5], "ok": not traces})
    tally = collections.Counter(
        f"{row.get('checkpoint') or row.get('file') or 'stray'}: {row['outcome']}"
        for row in rows
        if "outcome" in row
    )
    for what, count in sorted(tally.items()):
        print(f"{what}: {count}")
    shown = [row for row in rows if "run" in row]
    workfolders.report(
        rows, options.json, outcomes=dict(sorted(tally.items())), runs=shown
    )


if __name__ == "__main__":
    main()
