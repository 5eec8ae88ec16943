import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from marks import slow_but

from introspect_jax import data
from introspect_jax.errors import UserError
from introspect_jax.keys import stream_key
from introspect_jax.methods import LAST_BATCH, modules
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.devices import make_mesh
from introspect_jax.train.loop import step_cost
from introspect_jax.train.state import (
    deployed_variables,
    init_state,
    state_sha256,
)


def steps(experiment, count, start=0, state=None):
    state = experiment.init_state() if state is None else state
    batches = experiment.batches(start)
    metrics = []
    for _ in range(count):
        state, values = experiment.train_step(state, next(batches))
        metrics.append(jax.device_get(values))
    return state, metrics


# Of tests that no method matters to: compiled sooner, and once.
STANDARD = {"method.name": "standard"}
# They carry nothing and see one example at a time, and so share the step of others: of
# `kd, permuted`, `introspective`, `dml`, `cs_kd`, of other sources of introspection.
# What `ols` carries is a mean, as that of `introspective, confusion`.
LIKE_OTHERS = (
    "attention_transfer",
    "ban",
    "byot",
    "class_similarity_smoothing",
    "complement_entropy",
    "confidence_penalty",
    "dkd",
    "double_backprop",
    "jacobian",
    "kd",
    "label_smoothing",
    "ols",
    "one",
    "saliency_guided",
    "standard",
    "tf_kd_reg",
    "tf_kd_self",
    "introspective, random",
    "introspective, average",
    "introspective, own logits",
    "introspective, covariance",
)
# Of the largest value of an array, between one device and eight; 1e-5 for the others.
# Its classifiers normalise two channels.
ROUNDING = {"byot": 2e-5}
VARIANTS = {
    **{name: {} for name in modules()},
    "kd, permuted": {"method.kd.component": "permuted"},
    "introspective, confusion": {"method.introspective.source": "confusion"},
    "introspective, random": {"method.introspective.source": "random_network"},
    "introspective, average": {"method.introspective.component": "class_average"},
    "introspective, own logits": {
        "method.introspective.source": "own_logits",
        "method.introspective.target_entropy": "network",
        "method.introspective.entropy_matching": "running",
    },
    "introspective, covariance": {
        "method.introspective.source": "covariance",
        "method.introspective.target_entropy": "1.5",
    },
}


@pytest.mark.parametrize(
    "variant", slow_but(VARIANTS.keys() - set(LIKE_OTHERS), VARIANTS)
)
def test_every_method_resumes_and_takes_any_number_of_devices(
    experiment, variant, tmp_path
):
    """Three steps; the same bits with a checkpoint in between; the same on eight."""
    config = {"method.name": variant.split(",")[0], "average_decay": 0.9}
    config |= VARIANTS[variant]
    if "introspective" in variant:
        config["method.introspective.ramp_up"] = 0.0
    made = experiment(1, **config)
    before, _ = steps(made, 2)
    checkpoints = Checkpoints(epath.Path(tmp_path), 1)
    checkpoints.save(before, {"validation": None})
    checkpoints.wait()
    one, _ = steps(made, 1, start=2, state=before)
    restored, _ = checkpoints.restore_newest(made.abstract_state())
    checkpoints.close()
    resumed, _ = steps(made, 1, start=2, state=restored)
    chex.assert_trees_all_equal(one, resumed)

    eight, _ = steps(experiment(8, **config), 3)
    leaf = jax.tree.leaves(eight.params)[0]
    assert len(leaf.sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        scale = max(float(np.abs(a).max()), 1e-3)
        np.testing.assert_allclose(a, b, atol=ROUNDING.get(variant, 1e-5) * scale)


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_method_takes_a_batch_in_pieces_or_says_no(experiment, variant):
    """The same state on one and on eight devices, whatever each of them is given."""
    config = {"method.name": variant.split(",")[0], "accumulation_steps": 2}
    config |= VARIANTS[variant] | {"method.introspective.ramp_up": 0.0}
    made = experiment(1, **config)
    if LAST_BATCH in made.method.carries.values():
        with pytest.raises(UserError, match="use accumulation_steps=1"):
            steps(made, 1)
        return
    one, metrics = steps(made, 2)
    assert all(np.isfinite(value) for value in metrics[-1].values())
    eight, _ = steps(experiment(8, **config), 2)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(eight), strict=True):
        scale = max(float(np.abs(a).max()), 1e-3)
        np.testing.assert_allclose(a, b, atol=ROUNDING.get(variant, 1e-5) * scale)


@pytest.mark.fused
def test_streaming_equals_memory_bit_for_bit(experiment):
    resident = experiment(1, **STANDARD)
    assert not resident.loader.streams
    wanted, _ = steps(resident, 4)
    streaming = experiment(1, **{"data.device_megabytes": 0, "data.read_threads": 2})
    assert streaming.loader.streams
    assert "pool" not in next(streaming.batches(0))
    found, _ = steps(streaming, 4)
    chex.assert_trees_all_equal(wanted, found)


def test_a_run_is_a_function_of_its_seed(experiment):
    first, _ = steps(experiment(1, seed=3, **STANDARD), 3)
    again, _ = steps(experiment(1, seed=3, **STANDARD), 3)
    other, _ = steps(experiment(1, seed=4, **STANDARD), 3)
    assert state_sha256(first) == state_sha256(again)
    assert state_sha256(first) != state_sha256(other)


def test_continuing_in_the_middle(experiment):
    made = experiment(1, **STANDARD)
    whole, _ = steps(made, 6)
    half, _ = steps(made, 3)
    rest, _ = steps(made, 3, start=3, state=half)
    chex.assert_trees_all_equal(whole, rest)


def test_peers_cost_what_they_are(experiment):
    """Two networks are trained, one is deployed; the FLOPs are those of both.

    Of ResNet-8: beside the tiny network the loss would be no small part. Not compiled.
    """
    found = {}
    for name in ("standard", "dml"):
        made = experiment(1, **{"method.name": name, "model.name": "resnet8"})
        state = made.abstract_state()
        lowered = made.train_step.lower(state, next(made.batches(0)))
        flops = lowered.cost_analysis()["flops"]
        found[name] = step_cost(made, state, flops)
    one, two = found["standard"], found["dml"]
    assert one["parameters_trained"] == one["parameters_deployed"]
    assert two["parameters_trained"] == 2 * one["parameters_trained"]
    assert two["parameters_deployed"] == one["parameters_deployed"]
    assert 1.8 < two["flops_per_step"] / one["flops_per_step"] < 2.1


def test_seeds_share_one_program(experiment):
    made = experiment(1, **STANDARD)
    steps(made, 2)
    batch = dict(next(made.batches(0)))
    batch["seed"] = jax.device_put(np.uint32(9), batch["seed"].sharding)
    made.train_step(made.init_state(), batch)
    assert made.train_step._cache_size() == 1


def test_weight_decay_on_kernels_only(experiment):
    """With no gradient only the decayed leaves move."""
    changes = {
        **STANDARD,
        "optimizer.momentum": 0.0,
        "optimizer.weight_decay": 0.5,
        "optimizer.schedule": "constant",
    }
    for decayed, untouched in (("kernels", {"scale", "bias"}), ("all", set())):
        made = experiment(1, **changes, **{"optimizer.decayed": decayed})
        params = jax.tree.map(jnp.ones_like, made.init_state().params)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = made.optimizer.update(zeros, made.optimizer.init(params), params)
        still = {
            path[-1].key
            for path, leaf in jax.tree_util.tree_leaves_with_path(updates)
            if not np.any(leaf)
        }
        assert still == untouched


def test_average_follows_and_is_what_is_deployed(experiment):
    made = experiment(1, average_decay=0.5, **STANDARD)
    start = made.init_state()
    before = jax.device_get(start.params)
    chex.assert_trees_all_equal(
        deployed_variables(made.method, start)["params"], start.params
    )
    state, _ = steps(made, 1, state=start)
    # decay at the first step: min(0.5, 1 / 10)
    wanted = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, before, state.params)
    found = deployed_variables(made.method, state)["params"]
    for a, b in zip(jax.tree.leaves(wanted), jax.tree.leaves(found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_alternating_flips_change_with_the_epoch_and_the_seed(experiment):
    """The same batch at other steps, of 40 to the epoch."""
    changes = {"data.augment.flip": "alternating", "data.augment.crop_padding": 0}
    made = experiment(1, **changes, **STANDARD)
    assert made.context.steps_per_epoch == 40
    batch = next(made.batches(0))

    def loss(step, batch=batch):
        state = made.init_state().replace(step=jnp.asarray(step, jnp.int32))
        return float(made.train_step(state, batch)[1]["loss"])

    first = loss(0)
    assert [loss(step) == first for step in (39, 40, 79, 80)] == [1, 0, 0, 1]
    seed = jax.device_put(np.uint32(9), batch["seed"].sharding)
    assert loss(0, batch | {"seed": seed}) != first


def test_introspective_weight_ramps_up(experiment):
    _, metrics = steps(
        experiment(
            1,
            **{
                "method.introspective.weight": 0.4,
                "method.introspective.ramp_up": 4 / 12,
            },
        ),
        6,
    )
    np.testing.assert_allclose(
        [m["weight"] for m in metrics], [0, 0.1, 0.2, 0.3, 0.4, 0.4], rtol=1e-6
    )
    # Without weight the first step is the standard one.
    first, _ = steps(experiment(1), 1)
    standard, _ = steps(experiment(1, **{"method.name": "standard"}), 1)
    for a, b in zip(
        jax.tree.leaves(first.params), jax.tree.leaves(standard.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"method.introspective.similarity": "cosine"},
        {
            "method.introspective.similarity": "cosine",
            "method.introspective.norms": "last_layer",
        },
        {"method.introspective.support": "all", "method.introspective.center": True},
        {"method.introspective.explanation": "gradient_x_input"},
        {"method.introspective.stop_gradient": False},
        {**STANDARD, "data.augment.mixup": 0.2, "data.augment.cutmix": 1.0},
        {**STANDARD, "optimizer.name": "adamw", "optimizer.learning_rate": 1e-2},
        {**STANDARD, "optimizer.schedule": "one_cycle", "optimizer.clip_norm": 1.0},
    ],
    ids=lambda o: ",".join(f"{k.split('.')[-1]}={v}" for k, v in o.items()),
)
def test_options_learn(experiment, options):
    """The same batch again and again: its loss must fall."""
    made = experiment(
        1, **{"total_steps": 40, "data.augment.crop_padding": 0} | options
    )
    state, batch, losses = made.init_state(), next(made.batches(0)), []
    for _ in range(40):
        state, metrics = made.train_step(state, batch)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])


def test_both_ways_to_the_norms_train_alike(experiment):
    options = {
        "method.introspective.similarity": "cosine",
        "method.introspective.weight": 1.0,
        "method.introspective.ramp_up": 0.0,
    }
    exact, _ = steps(experiment(1, **options), 3)
    options["method.introspective.norms"] = "last_layer"
    found, _ = steps(experiment(1, **options), 3)
    for a, b in zip(
        jax.tree.leaves(exact.params), jax.tree.leaves(found.params), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_evaluation_counts_every_example(experiment):
    made = experiment(8, **STANDARD)
    state = made.init_state()
    variables = deployed_variables(made.method, state)
    test = data.load(made.config.data).test  # 360 = 5 batches of 64 and 40 left
    found = made.evaluator(variables, test)
    images, labels = test.take(np.arange(len(test)))
    config = made.config.data
    inputs = (images / 255 - config.mean[0]) / config.std[0]
    logits = made.method.model.apply(variables, inputs, train=False)
    assert found["top1"] == np.mean(np.argmax(logits, -1) == labels)
    wanted = -np.mean(jax.nn.log_softmax(logits)[np.arange(360), labels])
    np.testing.assert_allclose(found["nll"], wanted, rtol=1e-5)


def test_devices_must_share_the_batch(experiment):
    with pytest.raises(ValueError, match="batch_size must be a multiple of the 8"):
        experiment(8, batch_size=20)
    with pytest.raises(ValueError, match="eval_batch_size"):
        make_mesh({"eval_batch_size": 0})


def test_keys_differ_by_purpose_and_step():
    keys = [
        tuple(jax.random.key_data(stream_key(0, name, step)).tolist())
        for name in ("init", "augment", "method")
        for step in range(3)
    ]
    assert len(set(keys)) == 9


def test_state_digest_sees_every_bit(experiment):
    made = experiment(1, **STANDARD)
    state = init_state(made.method, made.optimizer, 0, averaged=True)
    digest = state_sha256(state)
    for name in ("step", "params", "model_state", "opt_state", "average"):
        part = getattr(state, name)
        leaves, tree = jax.tree.flatten(part)
        leaves[-1] = leaves[-1] + 1
        changed = state.replace(**{name: jax.tree.unflatten(tree, leaves)})
        assert state_sha256(changed) != digest
