import jax
import numpy as np
import pytest
from harness import batch, ce, images, kl, log_probs, loss, make, states_equal

from introspect_jax.errors import UserError
from introspect_jax.methods.byot import window


def after(method, params, state):
    """Maps after each stage, float64."""
    maps, _ = method.model.apply(
        {"params": params["network"], **state["network"]},
        images(),
        train=True,
        mutable=["batch_stats"],
        method="stages",
    )
    return [np.asarray(m, np.float64) for m in maps]


def bottleneck(maps, params):
    """Three layers, the second over windows of 2x2; features and logits."""

    def layer(x, i):
        kernel = np.asarray(params[f"conv{i}"]["kernel"], np.float64)
        side = len(kernel)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // side, side, width // side, side, channels)
        x = np.einsum("bhiwjc,ijcd->bhwd", x, kernel)
        x = (x - x.mean((0, 1, 2))) / np.sqrt(x.var((0, 1, 2)) + 1e-5)
        return np.maximum(x, 0)

    for i in range(3):
        maps = layer(maps, i)
    features = maps.mean((1, 2))
    return features, features @ params["last"]["kernel"] + params["last"]["bias"]


def test_it_is_by_its_formula():
    method = make("byot", alpha=0.2, temperature=2.0, beta=0.01)
    value, (new_state, _, metrics) = jax.jit(lambda: loss(method))()
    params, state, _ = method.init(jax.random.key(1))
    assert params.keys() == {"network", "classifier0"}
    first, last = after(method, params, state)
    assert first.shape[1:] == (4, 4, 4)
    assert last.shape[1:] == (2, 2, 8)
    features, logits = bottleneck(first, params["classifier0"])
    assert params["classifier0"]["conv1"]["kernel"].shape == (2, 2, 2, 2)

    network = {"params": params["network"], "model_state": state["network"]}
    hard, own = (log_probs(method, images(), t, **network) for t in (1.0, 2.0))
    labels = batch(method)["label"]
    logs = [np.asarray(jax.nn.log_softmax(logits / t)) for t in (1.0, 2.0)]
    distance = ((features - last.mean((1, 2))) ** 2).sum(-1)
    soft = 4 * kl(np.exp(own), logs[1])
    wanted = ce(labels, hard) + 0.8 * ce(labels, logs[0]) + 0.2 * soft + 0.01 * distance
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["feature_distance"], distance.mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["distillation"], soft.mean(), rtol=1e-4)
    assert metrics["loss_weights"] == 2
    # The network's own statistics, once.
    alone, (statistics, _, _) = loss(make("standard"))
    for a, b in zip(
        jax.tree.leaves(new_state["network"]), jax.tree.leaves(statistics), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(metrics["cross_entropy"], alone, rtol=1e-5)


def test_the_last_stage_learns_from_labels_only():
    """What the earlier classifiers learn from is constant."""
    gradients = {}
    for name in ("byot", "standard"):
        method = make(name, **({"alpha": 0.9, "beta": 1.0} if name == "byot" else {}))
        params, *states = method.init(jax.random.key(1))

        def total(params, method=method, states=states):
            return method.loss(params, *states, batch(method), 0, jax.random.key(2))[0]

        gradients[name] = jax.jit(jax.grad(total))(params)
    network, alone = gradients["byot"]["network"], gradients["standard"]
    for part in (("backbone", "conv1"), ("head",)):
        found, wanted = network, alone
        for key in part:
            found, wanted = found[key], wanted[key]
        np.testing.assert_allclose(
            found["kernel"], wanted["kernel"], rtol=1e-4, atol=1e-6
        )
    first = [g["backbone"]["conv0"]["kernel"] for g in (network, alone)]
    assert np.abs(first[0] - first[1]).max() > 1e-3


def test_the_network_alone_is_deployed():
    key = jax.random.key(3)
    method = make("byot")
    deployed = method.predict(*method.init(key))
    alone, statistics, _ = make("standard").init(key)
    states_equal(deployed, {"params": alone, **statistics})


def test_windows():
    """Of Airbench's maps, whose sides are no multiples, and of a network that ends in
    larger maps."""
    assert window((15, 15, 8), (3, 3, 8)) == 5
    assert window((7, 7, 8), (3, 3, 8)) == 2
    assert window((2, 2, 8), (4, 4, 8)) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 1.5}, r"byot\.alpha must lie in"),
        ({"temperature": 0.0}, "temperature must lie in"),
        ({"beta": -1.0}, "beta must lie in"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("byot", **options)
