"""Devices, replicas and micro-batches: they share the work and change nothing."""

import warnings

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from introspect_jax.errors import UserError
from introspect_jax.optimizers import make_schedule
from introspect_jax.train.devices import make_mesh, rows_here
from introspect_jax.train.parallel import over_replicas
from introspect_jax.train.parts import Part, micro_batches
from introspect_jax.train.state import state_sha256
from introspect_jax.train.step import make_train_step

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


@pytest.mark.fused  # the emitters of before may round by where a loop is
@pytest.mark.parametrize(
    ("method", "counts"),
    slow_but(
        [("introspective", (1, 8))], [("introspective", (1, 8)), ("ps_kd", (2, 4))]
    ),
)
def test_replicas_give_the_same_bits_on_any_number_of_devices(
    experiment, method, counts
):
    options = {"method.name": method, "method.introspective.ramp_up": 0.0}
    found = [steps(experiment(n, **PMAPPED, **options), 3)[0] for n in counts]
    for state, count in zip(found, counts, strict=True):
        assert len(jax.tree.leaves(state)[0].sharding.device_set) == count
    assert len({state_sha256(state) for state in found}) == 1


class Recorded:
    """Keeps the function of a part; what all parts say comes with the batch."""

    def shared(self, part_of):
        self.part_of = part_of
        return lambda state, batch: batch["part"]


@pytest.mark.fused
def test_replicas_are_what_pmap_does(experiment):
    """The function of a device under `jax.pmap`, then the same update: the same bits.

    They are the mean of what a replica says on each device. Fused as for users: else an
    update of its own is compiled otherwise than one within a step.
    """
    made = experiment(8, **PMAPPED, **{"method.name": "ps_kd"})
    config, recorded = made.config, Recorded()
    update = make_train_step(
        made.method,
        made.optimizer,
        make_schedule(config.optimizer, config.total_steps),
        config,
        num_classes=10,
        preprocess=made.evaluator.preprocess,
        parallel=recorded,
        steps_per_epoch=made.context.steps_per_epoch,
    )
    update, part_of = jax.jit(update), recorded.part_of

    def mapped(function, **options):
        return jax.pmap(
            lambda state, index, batch: function(state, batch | {"index": index}),
            axis_name="data",
            in_axes=(None, 0, None),
            **options,
        )

    def replica(state, batch):
        return part_of(state, batch, jax.lax.axis_index("data"))

    wanted, said = steps(made, 2)
    state, batches, values = jax.device_get(made.init_state()), made.batches(), {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        each = mapped(replica)
        together = mapped(over_replicas(part_of, 8), out_axes=None)
        for step in range(2):
            batch = jax.device_get(next(batches))
            index = batch.pop("index").reshape(8, -1)
            part = jax.device_get(together(state, index, batch))
            if step == 0:
                apart = each(state, index, batch).mean
                close(jax.tree.map(lambda leaf: leaf.mean(0), apart), part.mean)
            state, values = jax.device_get(update(state, {"part": part}))
    chex.assert_trees_all_equal(state, jax.device_get(wanted))
    chex.assert_trees_all_equal(values, jax.device_get(said))


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
    pieces = {"accumulation_steps": 2}
    for changes in (
        {"devices": 2, **PMAPPED, **pieces},
        {"devices": 8, "parallel.mode": "global", **pieces},
        {"devices": 1, "parallel.mode": "global", "accumulation_steps": 3},
    ):
        found, found_loss = head_bias(experiment(**changes))
        np.testing.assert_allclose(found, bias, atol=1e-7)
        np.testing.assert_allclose(found_loss, loss, rtol=1e-6)


@pytest.mark.parametrize("pieces", slow_but([5], [2, 5]))
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

    batch = {"index": jnp.arange(32)}
    part = micro_batches(part_of, batch, count, unit=2, number=5)
    np.testing.assert_allclose(part.mean["mean"], values.mean(), rtol=1e-5)
    np.testing.assert_array_equal(part.change["rows"], values)
    # Five parts of the step come before it, in as many pieces each.
    assert [number for number, _ in seen] == list(range(5 * count, 6 * count))
    for _, index in seen:
        np.testing.assert_array_equal(index[0::2] + 1, index[1::2])


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, PMAPPED], ids=["global", "pmapped"])
def test_a_running_temperature_is_that_of_all_parts(experiment, options):
    """From the second step on it is the geometric mean of those of the parts."""
    changes = {
        "method.name": "introspective",
        "method.introspective.source": "weight_rows",
        "method.introspective.target_entropy": "1.9",
        "method.introspective.entropy_matching": "running",
        "method.introspective.ramp_up": 0.0,
        "accumulation_steps": 2,
        **options,
    }
    made = experiment(8, **changes)
    state, _ = steps(made, 1)
    total, weight = np.asarray(state.method_state["temperature"])
    np.testing.assert_allclose(weight, 0.01, rtol=1e-5)
    _, values = made.train_step(state, next(made.batches(1)))
    np.testing.assert_allclose(values["temperature"], np.exp(total / weight), rtol=1e-5)
    assert values["entropy_unreached"] == 0


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


def test_remat_changes_no_bit(experiment):
    """A real network: its blocks are what is computed again."""
    options = {"model.name": "resnet8", "method.introspective.ramp_up": 0.0}
    found = []
    for remat in (False, True):
        made = experiment(1, **options, **{"model.remat": remat})
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


SEVERAL = {
    "method.introspective.similarity": "cosine",
    "method.introspective.ramp_up": 0.0,
}


@pytest.mark.fused
def test_devices_divide_the_explanations_of_all_classes(experiment):
    """The compiler alone would compute them on every device for the whole batch. What
    is logged are the FLOPs of all devices."""
    found = {}
    for devices in (1, 4):
        made = experiment(devices, **SEVERAL)
        state, batches = made.init_state(), made.batches(0)
        step, logged = made.compile(state, next(batches))
        _, metrics = step(state, next(batches))
        found[devices] = devices * step.cost_analysis()["flops"], logged, metrics
    assert found[4][0] < 1.2 * found[1][0]
    assert found[4][1] == pytest.approx(found[1][1], rel=0.02)
    close(found[1][2], found[4][2])


@pytest.mark.parametrize("devices", [1, 4])
def test_flops_are_those_of_the_plain_step_on_a_cpu(experiment, devices):
    """Accelerators do not count, so that the step is lowered again for a CPU."""
    made = experiment(devices)
    state, batch = made.init_state(), next(made.batches(0))
    directly = made.train_step.lower(state, batch).cost_analysis()["flops"]
    again = made.parallel.flops(made._lower_to_count(state, batch))
    assert again == pytest.approx(directly, rel=1e-3)


@pytest.mark.parametrize(
    "changes",
    slow_but(
        ["stop_gradient=False"],
        [
            "stop_gradient=False",
            "explain_every=2",
            "explain_every=3",
            "norms=probes:2",
            "accumulation_steps=2",
        ],
    ),
)
def test_explanations_are_the_same_on_any_number_of_devices(experiment, changes):
    name, _, value = changes.partition("=")
    field = name if name == "accumulation_steps" else f"method.introspective.{name}"
    value = {"False": False}.get(value, int(value) if value.isdecimal() else value)
    options = SEVERAL | {field: value}
    one, four = (steps(experiment(n, **options), 2)[0] for n in (1, 4))
    close((one.params, one.model_state), (four.params, four.model_state))
