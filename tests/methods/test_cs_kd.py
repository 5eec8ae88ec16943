import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import batch, ce, context, images, kl, log_probs, loss, make, states_equal

from introspect_jax.data.batches import Order
from introspect_jax.errors import UserError
from introspect_jax.methods.cs_kd import make_sampler, partners_in_batch


def test_it_is_by_its_formula():
    method = make("cs_kd", weight=0.5)
    value, _ = loss(method)
    labels = batch(method)["label"][::2]
    own, partners = images()[::2], images()[1::2]
    said = np.exp(log_probs(method, partners, 4.0))
    wanted = ce(labels, log_probs(method, own))
    wanted += 0.5 * 16 * kl(said, log_probs(method, own, 4.0))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)


def test_the_statistics_move_once():
    """As if the partners had not been there."""
    method = make("cs_kd")
    given = batch(method)
    _, (found, _, _) = loss(method, given)
    half = {k: v if k == "constants" else v[::2] for k, v in given.items()}
    _, (wanted, _, _) = loss(make("standard"), half)
    states_equal(found, wanted)


def test_partners_are_others_of_the_class():
    given = context()
    sampler = make_sampler(given)
    partners = set()
    for step in range(300):
        chosen, partner = sampler(step).reshape(-1, 2).T
        np.testing.assert_array_equal(chosen, given.order(step))
        np.testing.assert_array_equal(
            given.train_labels()[chosen], given.train_labels()[partner]
        )
        assert (chosen != partner).all()
        partners |= {(int(a), int(b)) for a, b in zip(chosen, partner, strict=True)}
        np.testing.assert_array_equal(sampler(step), sampler(step))
    # 24 examples, 6 of each class: each of the 5 others of a class was drawn.
    assert len(partners) == 24 * 5


def test_the_only_one_of_its_class_is_its_own_partner():
    labels = np.array([0] * 6 + [1] + [2] * 5)
    order = Order(0, 12, 4)
    sampler = make_sampler(context(train_labels=lambda: labels, order=order))
    pairs = np.concatenate([sampler(s).reshape(-1, 2) for s in range(3)])
    assert (6, 6) in {tuple(pair) for pair in pairs.tolist()}
    method = make("cs_kd")
    twice = jnp.arange(8) // 2 * 2
    given = batch(method)
    given |= {"image": given["image"][twice], "index": twice}
    _, (_, _, metrics) = loss(method, given)
    np.testing.assert_allclose(metrics["distillation"], 0, atol=1e-6)
    assert metrics["degenerate"] == 1


def test_without_known_labels_partners_are_of_the_batch():
    labels = jax.nn.one_hot(jnp.array([0, 1, 0, 2, 1, 1, 0, 3]), 4)
    found = np.stack(
        [partners_in_batch(labels, jax.random.key(i)) for i in range(40)], axis=1
    )
    wanted = [{2, 6}, {4, 5}, {0, 6}, {3}, {1, 5}, {1, 4}, {0, 2}, {7}]
    assert [set(row.tolist()) for row in found] == wanted

    method = make("cs_kd", given={"train_labels": None})
    assert method.sampler is None
    given = batch(method) | {"label": labels}
    value, (_, _, metrics) = loss(method, given)
    partners = partners_in_batch(labels, jax.random.key(2))
    logs, soft = (log_probs(method, images(), t) for t in (1.0, 4.0))
    wanted = ce(labels, logs) + 16 * kl(np.exp(soft[partners]), soft)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    assert metrics["degenerate"] == 2 / 8


def test_a_batch_without_any_pair_is_standard_training():
    method = make("cs_kd", classes=8, given={"train_labels": None})
    given = batch(method, classes=8)
    value, (_, _, metrics) = loss(method, given)
    np.testing.assert_allclose(value, metrics["cross_entropy"], rtol=1e-6)
    assert metrics["degenerate"] == 1


@pytest.mark.parametrize(
    ("given", "options", "says"),
    [
        ({}, {"weight": -1.0}, "weight must lie in"),
        ({}, {"temperature": 0.0}, "temperature must lie in"),
        (
            {"train_labels": lambda: np.arange(24)},
            {},
            "no class has two training examples",
        ),
        ({"mixes_examples": True}, {}, "mixup and cutmix"),
    ],
)
def test_what_cannot_be(given, options, says):
    with pytest.raises(UserError, match=says):
        make("cs_kd", given=given, **options)
