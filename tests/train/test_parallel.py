"""Devices, replicas and micro-batches: they share the work and change nothing."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax.data import sources
from introspect_jax.errors import UserError
from introspect_jax.train import optimizer as optimizers
from introspect_jax.train.experiment import build
from introspect_jax.train.parallel import make_mesh, rows_here
from introspect_jax.train.parts import Part, micro_batches
from introspect_jax.train.state import state_sha256
from introspect_jax.train.step import make_train_step

pytestmark = pytest.mark.usefixtures("tiny_model")
PMAPPED = {"parallel.mode": "pmapped", "parallel.replicas": 8}


def steps(experiment, count):
    state, batches, values = experiment.init_state(), experiment.batches(0), {}
    for _ in range(count):
        state, values = experiment.train_step(state, next(batches))
    return state, values


def close(a, b, relative=1e-5):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        scale = max(float(np.abs(x).max()), 1e-3)
        np.testing.assert_allclose(x, y, atol=relative * scale, rtol=0)


def test_global_is_the_same_on_eight_devices(experiment):
    options = {"method.introspective.ramp_up": 0.0, "average_decay": 0.9}
    one, _ = steps(experiment(1, **options), 5)
    eight, _ = steps(experiment(8, **options), 5)
    assert len(jax.tree.leaves(eight.params)[0].sharding.device_set) == 8
    close(one, eight)


@pytest.mark.parametrize(
    ("method", "counts"), [("introspective", (1, 2, 4, 8)), ("ps_kd", (1, 8))]
)
def test_replicas_give_the_same_bits_on_any_number_of_devices(
    experiment, method, counts
):
    options = {"method.name": method, "method.introspective.ramp_up": 0.0}
    found = [steps(experiment(n, **PMAPPED, **options), 3)[0] for n in counts]
    for state, count in zip(found, counts, strict=True):
        assert len(jax.tree.leaves(state)[0].sharding.device_set) == count
    assert len({state_sha256(state) for state in found}) == 1


def test_replicas_are_what_pmap_does(experiment):
    made = experiment(8, **PMAPPED)
    config = made.config
    schedule = optimizers.make_schedule(config.optimizer, config.total_steps)
    step = make_train_step(
        made.method,
        made.optimizer,
        schedule,
        config,
        num_classes=10,
        size=made.size,
    )
    wanted, _ = steps(made, 2)
    state, batches = made.init_state(), made.batches(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for _ in range(2):
            batch = jax.device_get(next(batches))
            index = batch.pop("index").reshape(8, -1)
            mapped = jax.pmap(
                lambda state, index, batch: step(state, batch | {"index": index}),
                axis_name="data",
                in_axes=(None, 0, None),
                out_axes=None,
            )
            state, _ = jax.device_get(mapped(jax.device_get(state), index, batch))
    chex.assert_trees_all_equal(state, jax.device_get(wanted))


def test_gradients_of_replicas_are_means(experiment):
    """Without batch statistics every way to cut a batch gives the same gradient.

    With eight devices and `check_vma` the gradient would be eight times as large.
    """
    plain = {
        "method.name": "standard",
        "optimizer.momentum": 0.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.schedule": "constant",
    }

    def head_bias(experiment):
        # The head of a network whose maps are zero sees no statistics at all.
        start = experiment.init_state()
        zeroed = jax.tree.map(jnp.zeros_like, start.params["backbone"])
        start = start.replace(params=start.params | {"backbone": zeroed})
        state, values = experiment.train_step(start, next(experiment.batches(0)))
        return jax.device_get(state.params["head"]["bias"]), float(values["loss"])

    bias, loss = head_bias(experiment(1, **plain))
    assert np.abs(bias).max() > 1e-3
    pieces = {"accumulation_steps": 4}
    for changes in (
        {"devices": 2, **PMAPPED, **pieces},
        {"devices": 8, "parallel.mode": "global", **pieces},
        {"devices": 1, "parallel.mode": "global", "accumulation_steps": 3},
    ):
        found, found_loss = head_bias(experiment(**changes))
        np.testing.assert_allclose(found, bias, atol=1e-7)
        np.testing.assert_allclose(found_loss, loss, rtol=1e-6)


@pytest.mark.parametrize("pieces", [2, 5])
def test_pieces_of_unequal_size_count_by_their_examples(experiment, pieces):
    """32 examples in 5 pieces: 7, 7, 6, 6 and 6. Methods that carry something."""
    changes = {
        "method.name": "ps_kd",
        "accumulation_steps": pieces,
        "data.augment.crop_padding": 0,
    }
    made = experiment(1, **changes)
    batch = next(made.batches(0))
    index = np.asarray(batch["index"])
    state, values = made.train_step(made.init_state(), batch)
    memory = np.asarray(state.method_state["memory"])
    # Every example of the batch has its own row, and no other has.
    np.testing.assert_allclose(memory[index].sum(axis=1), 1, rtol=1e-5)
    assert not np.delete(memory, index, axis=0).any()
    assert 0 <= float(values["accuracy"]) * 32 % 1 < 1e-4


@pytest.mark.parametrize("count", [2, 3, 8])
def test_micro_batches_are_the_whole(count):
    """16 pairs in pieces, of 3 of unequal size; a pair stays together."""
    values = jnp.asarray(np.random.RandomState(0).randn(32), jnp.float32)
    seen = []

    def part_of(piece, number):
        index = piece["index"]
        seen.append((number, np.asarray(index)))
        rows = jnp.zeros(32).at[index].set(values[index])
        return Part({"mean": values[index].mean()}, {"rows": rows})

    part = micro_batches(part_of, {"index": jnp.arange(32)}, count, unit=2, first=5)
    np.testing.assert_allclose(part.mean["mean"], values.mean(), rtol=1e-5)
    np.testing.assert_array_equal(part.change["rows"], values)
    assert [number for number, _ in seen] == list(range(5, 5 + count))
    for _, index in seen:
        np.testing.assert_array_equal(index[0::2] + 1, index[1::2])


@pytest.mark.parametrize("options", [{}, PMAPPED], ids=["global", "pmapped"])
def test_pieces_in_a_loop_are_those_written_out(experiment, monkeypatch, options):
    """Accelerators loop over pieces of one size; so does this CPU, if it is told to."""
    changes = {"method.name": "cs_kd", "accumulation_steps": 2, **options}
    loops, scan = [], jax.lax.scan
    # One step: in a second, rounding in the weights is in what the metrics are of.

    def counted(*given, **more):
        loops.append(1)
        return scan(*given, **more)

    monkeypatch.setattr(jax.lax, "scan", counted)
    written, said = steps(experiment(1, **changes), 1)
    before = len(loops)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    looped, repeated = steps(experiment(1, **changes), 1)
    assert len(loops) - before > before
    close(written, looped)
    close(said, repeated)


def test_remat_changes_no_bit(digits_config, monkeypatch):
    monkeypatch.undo()  # a real network: blocks are what is computed again
    digits_config.model.name = "resnet8"
    digits_config.method.introspective.ramp_up = 0.0
    found = []
    for remat in (False, True):
        digits_config.model.remat = remat
        made = build(digits_config, sources.load(digits_config.data), jax.devices()[:1])
        found.append(jax.device_get(steps(made, 1)[0]))
    close(*found, relative=1e-6)


def test_what_cannot_be_shared(experiment):
    with pytest.raises(UserError, match=r"parallel.replicas must be a multiple of the"):
        experiment(8, **{"parallel.mode": "pmapped", "parallel.replicas": 4})
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 8"):
        make_mesh({"batch_size": 20})


def test_rows_of_this_process():
    mesh = make_mesh({}, jax.devices()[:4])
    np.testing.assert_array_equal(rows_here(mesh, 12), np.arange(12))
