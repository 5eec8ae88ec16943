import flax.linen as nn
import jax
import numpy as np
import pytest
from halves import build_halves
from harness import batch, ce, images, kl, log_probs, loss, make, states_equal

from introspect_jax.errors import UserError
from introspect_jax.methods.one import default_config, ramp


def at_the_end(method, params, states, step=100):
    return method.loss(params, *states, batch(method), step, jax.random.key(2))


def test_one_branch_is_twice_the_standard_loss():
    """The gate is 1 and the divergence 0; at the end of the ramp too."""
    found = {}
    for name, options in (("one", {"branches": 1}), ("standard", {})):
        method = make(name, **options)
        params, *states = method.init(jax.random.key(1))
        compute = jax.value_and_grad(
            lambda p, method=method, states=states: at_the_end(method, p, states),
            has_aux=True,
        )
        found[name] = jax.jit(compute)(params)
    (value, (state, _, metrics)), gradient = found["one"]
    (alone, (statistics, _, others)), wanted = found["standard"]
    np.testing.assert_allclose(value, 2 * alone, rtol=1e-6)
    assert metrics["weight"] == 1
    for a, b in zip(
        jax.tree.leaves(gradient["network"]), jax.tree.leaves(wanted), strict=True
    ):
        np.testing.assert_allclose(a, 2 * b, rtol=1e-4, atol=1e-6)
    for leaf in jax.tree.leaves(gradient["gate"]):
        np.testing.assert_array_equal(leaf, 0)
    states_equal(state["network"], statistics)
    np.testing.assert_allclose(metrics["accuracy"], others["accuracy"])


def merged(whole, branch):
    """The network's variables with the last stage of a branch."""
    if not isinstance(branch, dict):
        return branch
    return whole | {name: merged(whole.get(name), v) for name, v in branch.items()}


def gates(method, params, state):
    """Linear layer of the mean, normalisation over the batch, ReLU, softmax."""
    shared, _ = method.model.apply(
        {"params": params["network"], **state["network"]},
        images(),
        train=True,
        mutable=["batch_stats"],
        method="trunk",
    )
    kernel = params["gate"]["gate"]["kernel"]
    scores = np.asarray(shared, np.float64).mean((1, 2)) @ kernel
    scores = (scores - scores.mean(0)) / np.sqrt(scores.var(0) + 1e-5)
    return np.asarray(jax.nn.softmax(np.maximum(scores, 0)))


def test_it_is_by_its_formula():
    method = make("one", temperature=2.0, ramp_up=0.5)
    params, state, _ = method.init(jax.random.key(1))
    value, (new_state, _, metrics) = jax.jit(lambda: loss(method, step=10))()
    networks = [
        (merged(params["network"], params[name]), merged(state["network"], state[name]))
        for name in ("network", "branch1", "branch2")
    ]
    logits = [log_probs(method, images(), params=p, model_state=s) for p, s in networks]
    weights = gates(method, params, state)
    together = sum(weights[:, [i]] * logits[i] for i in range(3))

    def logs(z, temperature=1.0):
        return np.asarray(jax.nn.log_softmax(z / temperature))

    labels = batch(method)["label"]
    hard = sum(ce(labels, logs(z)) for z in [*logits, together])
    soft = 4 * sum(kl(np.exp(logs(together, 2.0)), logs(z, 2.0)) for z in logits)
    weight = np.exp(-5 * (1 - 10 / 50) ** 2)
    np.testing.assert_allclose(value, (hard + weight * soft).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["weight"], weight, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss_weights"], 4 + 3 * weight, rtol=1e-5)
    right = together.argmax(-1) == np.arange(8) % 4
    np.testing.assert_allclose(metrics["ensemble_accuracy"], right.mean())
    # Statistics of each branch are those of a network with that last stage.
    for name, (p, s) in zip(("network", "branch1", "branch2"), networks, strict=True):
        _, updated = method.model.apply(
            {"params": p, **s}, images(), train=True, mutable=["batch_stats"]
        )
        found = merged(updated, new_state[name])
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(updated), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert (
        new_state["branch1"]["batch_stats"]["backbone"]["norm1"]["mean"]
        != new_state["branch2"]["batch_stats"]["backbone"]["norm1"]["mean"]
    ).any()


def test_the_first_branch_is_the_network_and_the_others_start_on_their_own():
    key = jax.random.key(3)
    method = make("one")
    params, state, method_state = method.init(key)
    alone, statistics, _ = make("standard").init(key)
    states_equal(
        method.predict(params, state, method_state), {"params": alone, **statistics}
    )
    assert params.keys() == {"network", "branch1", "branch2", "gate"}
    kernels = [
        params[name]["backbone"]["conv1"]["kernel"]
        for name in ("network", "branch1", "branch2")
    ]
    assert len({kernel.tobytes() for kernel in map(np.asarray, kernels)}) == 3
    assert "conv0" not in params["branch1"]["backbone"]


def test_the_ramp():
    """That of the released code, 80 of 300 epochs, in a run of as many steps."""
    steps = default_config().ramp_up * 300
    for step in (0, 1, 40, 79, 80, 299):
        wanted = np.exp(-5 * (1 - min(step, 80) / 80) ** 2)
        np.testing.assert_allclose(ramp(step, steps), wanted, rtol=1e-6)
    assert ramp(0, 0.0) == 1


def test_an_nnx_network():
    method = make("one", branches=1, given={"model": build_halves(4)})
    params, *states = jax.jit(method.init)(jax.random.key(1))
    value, _ = jax.jit(lambda p: at_the_end(method, p, states))(params)
    variables = {"params": params["network"], **states[0]["network"]}
    logits, _ = method.model.apply(
        variables, images(), train=True, mutable=["batch_stats"]
    )
    logs = np.asarray(jax.nn.log_softmax(logits))
    wanted = ce(batch(method)["label"], logs).mean()
    np.testing.assert_allclose(value, 2 * wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"branches": 0}, r"branches must lie in \[1, 100\], got 0"),
        ({"temperature": 0.0}, "temperature must lie in"),
        ({"ramp_up": 1.5}, "ramp_up must lie in"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("one", **options)


@pytest.mark.parametrize("name", ["one", "byot", "attention_transfer"])
def test_a_network_without_stages(name):
    with pytest.raises(UserError, match=f"has no '.*', which method.name={name} nee"):
        make(name, given={"model": nn.Dense(4)})
