import jax
import numpy as np
import pytest
from harness import batch, ce, images, kl, log_probs, loss, make, states_equal

from introspect_jax.errors import UserError


@pytest.mark.parametrize("peers", [2, 3])
def test_it_is_by_its_formula(peers):
    method = make("dml", peers=peers)
    value, (_, _, metrics) = loss(method)
    params, model_state, _ = method.init(jax.random.key(1))
    assert len(params) == peers
    logs = [
        log_probs(method, images(), params=params[p], model_state=model_state[p])
        for p in sorted(params)
    ]
    wanted = sum(ce(batch(method)["label"], log).mean() for log in logs)
    for i in range(peers):
        for j in range(peers):
            if i != j:
                wanted += kl(np.exp(logs[j]), logs[i]).mean() / (peers - 1)
    np.testing.assert_allclose(value, wanted, rtol=1e-4)
    hits = logs[0].argmax(-1) == np.arange(8) % 4
    np.testing.assert_allclose(metrics["accuracy"], hits.mean())


def test_the_first_peer_is_deployed_and_starts_as_it_would_alone():
    key = jax.random.key(3)
    params, model_state, method_state = make("dml").init(key)
    deployed = make("dml").predict(params, model_state, method_state)
    alone, statistics, _ = make("standard").init(key)
    states_equal(deployed, {"params": alone, **statistics})
    first, second = (jax.tree.leaves(params[p])[-1] for p in ("peer0", "peer1"))
    assert (first != second).any()


def test_a_peer_is_constant_in_the_others_loss():
    """The mutual term alone, as a difference: a peer's gradient is of its own part."""
    method = make("dml")
    params, *states = method.init(jax.random.key(1))
    given = batch(method)

    def gradient(weight):
        method = make("dml", weight=weight)
        total = jax.grad(
            lambda p: method.loss(p, *states, given, 0, jax.random.key(2))[0]
        )
        return jax.jit(total)(params)

    heavy, light = gradient(2.0), gradient(1.0)
    mutual = jax.tree.map(lambda a, b: np.asarray(a - b), heavy, light)

    other = np.exp(
        log_probs(
            method,
            given["image"],
            params=params["peer1"],
            model_state=states[0]["peer1"],
        )
    )

    def own_term(first):
        logits, _ = method.model.apply(
            {"params": first, **states[0]["peer0"]},
            given["image"],
            train=True,
            mutable=["batch_stats"],
        )
        return -(other * jax.nn.log_softmax(logits)).sum(-1).mean()

    wanted = jax.jit(jax.grad(own_term))(params["peer0"])
    for a, b in zip(
        jax.tree.leaves(mutual["peer0"]), jax.tree.leaves(wanted), strict=True
    ):
        # The entropy of the other is a constant; float32 cancels in the difference.
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"peers": 1}, "peers must be at least 2, got 1"),
        ({"weight": -1.0}, "weight must lie in"),
        ({"temperature": 0.0}, "temperature must lie in"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("dml", **options)
