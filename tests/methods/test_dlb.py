import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import batch, ce, context, images, kl, log_probs, loss, make

from introspect_jax.errors import UserError
from introspect_jax.methods.dlb import make_sampler


def test_the_first_step_is_standard_training_and_remembers():
    method = make("dlb")
    value, (_, method_state, metrics) = loss(method)
    np.testing.assert_allclose(value, loss(make("standard"))[0], rtol=1e-6)
    assert metrics["distillation"] == 0
    np.testing.assert_array_equal(method_state["index"], [4, 5, 6, 7])
    said = jax.nn.log_softmax(method_state["logits"])
    np.testing.assert_allclose(said, log_probs(method, images())[4:], atol=1e-5)


def test_it_is_by_its_formula():
    """The divergence is a mean over the first half; one of it was not in the step
    before, and one has no label."""
    method = make("dlb", alpha=0.5)
    params, model_state, _ = method.init(jax.random.key(1))
    before = np.random.RandomState(0).normal(size=(4, 4)).astype("f4") * 3
    method_state = {"logits": before, "index": jnp.array([0, 9, 2, 3])}
    given = batch(method)
    given["label"] = given["label"].at[2].set(0)
    states = params, model_state, method_state
    value, (_, _, metrics) = loss(method, given, 3, states)
    hard = ce(given["label"], log_probs(method, images())).sum() / 7
    said = np.asarray(jax.nn.softmax(before / 3.0), np.float64)
    soft = 9 * kl(said, log_probs(method, images(), 3.0)[:4])[[0, 3]].mean()
    np.testing.assert_allclose(value, hard + 0.5 * soft, rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], hard, rtol=1e-5)
    np.testing.assert_allclose(metrics["distillation"], soft, rtol=1e-5)
    own = said[[0, 3], [0, 3]].mean()
    np.testing.assert_allclose(metrics["target_true_mass"], own, rtol=1e-5)


def test_what_was_said_gets_no_gradient():
    method = make("dlb")
    params, model_state, _ = method.init(jax.random.key(1))

    def total(before):
        method_state = {"logits": before, "index": jnp.arange(4)}
        return loss(method, None, 3, (params, model_state, method_state))[0]

    np.testing.assert_array_equal(jax.grad(total)(jnp.eye(4)), 0)


def test_every_example_comes_twice_and_in_a_row():
    """24 examples, 4 new a step: six steps go through all, in the usual order."""
    given = context()
    sampler = make_sampler(given)
    steps = [sampler(step) for step in range(25)]
    assert all(len(set(step)) == 8 for step in steps[:6])
    for before, now in itertools.pairwise(steps):
        np.testing.assert_array_equal(before[4:], now[:4])
    for epoch in range(4):
        new = np.concatenate([s[4:] for s in steps[6 * epoch : 6 * epoch + 6]])
        usual = np.concatenate([given.order(3 * epoch + i) for i in range(3)])
        np.testing.assert_array_equal(new, usual)
        assert sorted(new) == list(range(24))
    seen = np.bincount(np.concatenate(steps[1:]), minlength=24)
    assert seen.sum() == 24 * 8
    np.testing.assert_array_equal(np.sort(seen), [7] * 4 + [8] * 16 + [9] * 4)
    np.testing.assert_array_equal(sampler(7), steps[7])  # after later ones


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ({}, {"alpha": -1.0}, r"dlb\.alpha must lie in \[0, inf\)"),
        ({}, {"temperature": 0.0}, r"dlb\.temperature must lie in \(0, inf\)"),
        ({"batch_size": 9}, {}, "batch_size must be even, got 9"),
        ({"mixes_examples": True}, {}, "mixup and cutmix"),
    ],
)
def test_bad_input(given, options, says):
    with pytest.raises(UserError, match=says):
        make("dlb", given=given, **options)


@pytest.mark.parametrize(
    "changes", [{"accumulation_steps": 2}, {"parallel.mode": "pmapped"}]
)
def test_it_is_not_taken_in_parts(experiment, changes):
    made = experiment(1, **{"method.name": "dlb"} | changes)
    with pytest.raises(
        UserError, match=r"rows of the last batch.*accumulation_steps=1"
    ):
        jax.eval_shape(made.train_step, made.abstract_state(), next(made.batches()))
