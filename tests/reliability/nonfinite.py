"""Puts numbers that are not finite into the gradients of one step of real runs.

The run must name exactly that step and keep nothing that is not finite; the same
command without them must then end as a run that never met them.
python tests/reliability/nonfinite.py [--json=FILE]
"""

import contextlib
import dataclasses
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import workfolders
from etils import epath
from tiny import TINY

from introspect_jax import data, methods
from introspect_jax import run as whole_run
from introspect_jax.config import default_config, lock
from introspect_jax.errors import UserError
from introspect_jax.methods import Method
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.trainer import build

VALUES = {"NaN": jnp.nan, "+inf": jnp.inf, "-inf": -jnp.inf}
STEPS, LOG_STEPS, CHECKPOINT_STEPS = 12, 4, 3
# The first, one in the middle of a log window, one that is logged, one that is saved,
# one after that, and the last.
AT = (1, 6, 7, 8, 9, 10, STEPS)


@jax.custom_vjp
def poisoned(leaf: jax.Array, value: jax.Array) -> jax.Array:
    """The leaf; `value` is added to the first entry of its gradient."""
    del value
    return leaf


def _forward(leaf, value):
    return leaf, value


def _backward(value, cotangent):
    first = cotangent.ravel()[0] + value
    return cotangent.ravel().at[0].set(first).reshape(cotangent.shape), None


poisoned.defvjp(_forward, _backward)


@contextlib.contextmanager
def poison(at: int, value: float, leaves: str) -> Iterator[None]:
    """Within it, the gradients of step `at` (from 1) are poisoned.

    Args:
      at: the step.
      value: what is added to the first entry.
      leaves: "all" leaves of the parameters, the "first" or the "last".
    """
    make = methods.make

    def poisoning(config, context) -> Method:
        method = make(config, context)

        def loss(params, model_state, method_state, batch, step, key):
            added = jnp.where(step == at - 1, value, 0.0)
            flat, structure = jax.tree.flatten(params)
            chosen = {"all": range(len(flat)), "first": [0], "last": [len(flat) - 1]}
            for place in chosen[leaves]:
                flat[place] = poisoned(flat[place], added.astype(flat[place].dtype))
            params = jax.tree.unflatten(structure, flat)
            return method.loss(params, model_state, method_state, batch, step, key)

        return dataclasses.replace(method, loss=loss)

    methods.make = poisoning
    try:
        yield
    finally:
        methods.make = make


def config_of(method: str = "standard", **optimizer):
    """A run of twelve steps on the digits."""
    config = default_config()
    config.data.name = "digits"
    config.model.name = TINY
    config.method.name = method
    config.batch_size = 32
    config.total_steps = STEPS
    config.log_steps = LOG_STEPS
    config.eval_steps = 2 * CHECKPOINT_STEPS
    config.checkpoint_steps = CHECKPOINT_STEPS
    config.checkpoints_kept = STEPS
    config.average_decay = 0.5
    config.optimizer.update(optimizer)
    return lock(config)


def not_finite(state) -> list[str]:
    """Paths of the leaves of a state that hold something that is not finite."""
    return [
        jax.tree_util.keystr(path)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and not jnp.isfinite(leaf).all()
    ]


def check(folder: pathlib.Path, config, at: int, value: str, leaves: str) -> dict:
    """One poisoned run, and what it left.

    Returns:
      The message, the steps that were saved, and whether all was as it must be.
    """
    said = ""
    try:
        with poison(at, VALUES[value], leaves):
            whole_run.run("digits", config, str(folder), pictures=False)
    except UserError as error:
        said = str(error)
    dataset = data.load(config.data)
    like = build(config, dataset, jax.devices()[:1]).abstract_state()
    checkpoints = Checkpoints(epath.Path(folder), STEPS)
    saved = dict(checkpoints.restore_all(like))
    checkpoints.close()
    bad = {step: not_finite(state) for step, state in saved.items()}
    expected = list(range(CHECKPOINT_STEPS, at, CHECKPOINT_STEPS))
    records = [json.loads(line) for line in (folder / "metrics.jsonl").open()]
    late = [record["step"] for record in records if record["step"] >= at]
    kept = f"of step {expected[-1]}, is kept" if expected else "no checkpoint yet"
    return {
        "method": config.method.name,
        "step": at,
        "value": value,
        "leaves": leaves,
        "message": said,
        "saved": sorted(saved),
        "ok": f" at step {at} is " in said
        and "\n" not in said
        and kept in said
        and sorted(saved) == expected
        and not any(bad.values())
        and not late
        and not (folder / "summary.json").exists(),
    }


@contextlib.contextmanager
def small_runs() -> Iterator[None]:
    """Runs train on the first device, however many there are."""

    def on_one(config, dataset, devices=None, **options):
        return build(config, dataset, jax.devices()[:1], **options)

    whole_run.build = on_one
    try:
        yield
    finally:
        whole_run.build = build


def check_recovery(scratch: pathlib.Path, at: int) -> dict:
    """The same command after a poisoned run ends as one that was never poisoned."""
    config = config_of()
    wanted = whole_run.run("digits", config, str(scratch / "good"), pictures=False)
    row = check(scratch / "poisoned", config, at, "NaN", "first")
    found = whole_run.run("digits", config, str(scratch / "poisoned"), pictures=False)
    names = ("state_sha256", "test", "validation", "steps")
    same = all(found[name] == wanted[name] for name in names)
    return row | {"same end": same, "ok": row["ok"] and same}


def cases() -> Iterator[tuple]:
    """Method, options of the optimiser, step, value, leaves."""
    for at in AT:
        for value in VALUES:
            yield "standard", {}, at, value, "first"
    for value in VALUES:
        yield "standard", {}, 7, value, "all"
        yield "standard", {}, 7, value, "last"
        # Clipping makes NaN of an infinite norm, or could hide it.
        yield "standard", {"clip_norm": 1.0}, 7, value, "first"
        yield "standard", {"name": "adamw", "learning_rate": 1e-3}, 7, value, "first"
    yield "introspective", {}, 7, "NaN", "first"
    yield "ps_kd", {}, 7, "NaN", "first"
    yield "dml", {}, 7, "NaN", "last"


def main() -> None:
    options = workfolders.arguments(__doc__)
    rows = []
    with tempfile.TemporaryDirectory() as name, small_runs():
        scratch = pathlib.Path(name)
        for method, optimizer, at, value, leaves in cases():
            config = config_of(method, **optimizer)
            row = check(scratch / "run", config, at, value, leaves)
            rows.append(row | {"optimizer": optimizer})
            print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(scratch / "run")
        rows.append(check_recovery(scratch, 7))
    workfolders.report(rows, options.json)


if __name__ == "__main__":
    main()
