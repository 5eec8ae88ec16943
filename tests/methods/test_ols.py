import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import CLASSES, batch, ce, images, log_probs, loss, make

from introspect_jax.errors import UserError
from introspect_jax.methods.ols import counted, turned
from introspect_jax.objectives.targets import correct_sums
from introspect_jax.train.parts import Part, micro_batches

STEPS, EPOCH = 7, 3  # two epochs and a step


def drawn():
    """Logits `[steps, 8, 4]`, labels `[steps, 8]`, -1 for none; class 3 is never
    right in the second epoch."""
    random = np.random.RandomState(0)
    logits = random.normal(size=(STEPS, 8, CLASSES)) * 2
    labels = np.where(random.uniform(size=(STEPS, 8)) < 0.6, logits.argmax(-1), 1)
    labels[EPOCH : 2 * EPOCH][logits[EPOCH : 2 * EPOCH].argmax(-1) == 3] = 0
    labels[:, 5] = -1
    return logits, labels


def epoch_means(logits, labels):
    """The definition, example by example."""
    said = [[] for _ in range(CLASSES)]
    for z, y in zip(logits.reshape(-1, CLASSES), labels.ravel(), strict=True):
        if z.argmax() == y:
            said[y].append(np.exp(z) / np.exp(z).sum())
    uniform = np.full(CLASSES, 1 / CLASSES)
    return np.stack([np.mean(p, axis=0) if p else uniform for p in said])


def start():
    square = jnp.zeros((CLASSES, CLASSES))
    return {"rows": square, "sums": square}


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("pieces", [1, 3])
def test_rows_are_the_means_of_the_last_epoch(pieces):
    """To 1e-10; in pieces of different numbers of examples, too."""
    logits, labels = drawn()

    def part_of(batch, number):
        index = batch["index"]
        state = turned(batch["state"], batch["step"] % EPOCH == 0)
        one_hot = jax.nn.one_hot(batch["labels"][index], CLASSES)
        return Part(counted(state, batch["logits"][index], one_hot), {})

    take = jax.jit(lambda batch: micro_batches(part_of, batch, pieces, 1).mean)
    state, rows = start(), []
    for step in range(STEPS):
        batch = {
            "index": jnp.arange(8),
            "logits": jnp.asarray(logits[step]),
            "labels": jnp.asarray(labels[step]),
            "state": state,
            "step": jnp.asarray(step),
        }
        state = take(batch)
        rows.append(np.asarray(state["rows"]))
    uniform = np.full((CLASSES, CLASSES), 1 / CLASSES)
    first = epoch_means(logits[:EPOCH], labels[:EPOCH])
    second = epoch_means(logits[EPOCH : 2 * EPOCH], labels[EPOCH : 2 * EPOCH])
    assert (second[3] == 0.25).all()
    assert np.abs(first - second).max() > 0.1
    wanted = [uniform] * EPOCH + [first] * EPOCH + [second]
    np.testing.assert_allclose(rows, wanted, rtol=0, atol=1e-10)
    np.testing.assert_allclose(np.sum(rows, -1), 1, rtol=0, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"accumulation_steps": 3},
        {"parallel.mode": "pmapped", "parallel.replicas": 8},
    ],
)
def test_all_parts_of_a_step_turn_together(experiment, changes):
    """Three steps an epoch: what the state holds after each step of two and a bit."""
    small = {"method.name": "ols", "data.train_examples": 96}
    made = experiment(1, **small | changes)
    assert made.context.steps_per_epoch == EPOCH
    state, batches, seen = made.init_state(), made.batches(), []
    for step in range(STEPS):
        state, metrics = made.train_step(state, next(batches))
        carried = jax.device_get(state.method_state)
        np.testing.assert_allclose(carried["rows"].sum(-1), 1, atol=1e-5)
        # Of each step the share of the batch that was right.
        hits = metrics["accuracy"] + (seen[-1][1] if step % EPOCH else 0)
        np.testing.assert_allclose(carried["sums"].sum(), hits, rtol=1e-4)
        seen.append((carried["rows"], hits))
    for step in range(1, STEPS):
        moved = np.abs(seen[step][0] - seen[step - 1][0]).max()
        assert (moved > 1e-3) == (step % EPOCH == 0)


def test_it_is_by_its_formula():
    """The rows in use are those of the state; what is said is counted in it."""
    method = make("ols", alpha=0.7)
    params, model_state, method_state = method.init(jax.random.key(1))
    np.testing.assert_array_equal(method_state["rows"], 0.25)
    rows = np.random.RandomState(0).dirichlet(np.ones(4), 4).astype("f4")
    states = params, model_state, {"rows": rows, "sums": jnp.ones((4, 4))}
    value, (_, after, metrics) = loss(method, step=11, states=states)
    labels, logs = batch(method)["label"], log_probs(method, images())
    wanted = 0.7 * ce(labels, logs) + 0.3 * ce(labels @ rows, logs)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    own = np.mean(0.7 + 0.3 * np.diag(rows))
    np.testing.assert_allclose(metrics["target_true_mass"], own, rtol=1e-5)
    np.testing.assert_array_equal(after["rows"], rows)
    sums = np.asarray(correct_sums(logs, labels))
    assert sums.sum() > 0
    np.testing.assert_allclose(after["sums"], 1 + sums / 8, rtol=1e-5)


def test_the_first_step_of_an_epoch_takes_the_means():
    method = make("ols", alpha=0.7)
    params, model_state, _ = method.init(jax.random.key(1))
    sums = np.random.RandomState(0).dirichlet(np.ones(4), 4).astype("f4")
    states = params, model_state, {"rows": jnp.full((4, 4), 0.25), "sums": 3 * sums}
    value, (_, after, _) = loss(method, step=10, states=states)  # 10 steps an epoch
    labels, logs = batch(method)["label"], log_probs(method, images())
    wanted = 0.7 * ce(labels, logs) + 0.3 * ce(labels @ sums, logs)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(after["rows"], sums, rtol=1e-5)
    counted = np.asarray(correct_sums(logs, labels)) / 8
    np.testing.assert_allclose(after["sums"], counted, rtol=1e-5)


def test_alpha_of_one_is_standard_training():
    np.testing.assert_allclose(
        loss(make("ols", alpha=1.0))[0], loss(make("standard"))[0], rtol=1e-6
    )


def test_bad_input():
    with pytest.raises(UserError, match=r"alpha must lie in \[0, 1\], got 1.5"):
        make("ols", alpha=1.5)
    with pytest.raises(UserError, match="mixup and cutmix"):
        make("ols", given={"mixes_examples": True})
