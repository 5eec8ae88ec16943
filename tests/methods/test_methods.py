"""What all methods have in common."""

import re

import jax
import jax.numpy as jnp
import pytest
from harness import batch, context, loss, make

from introspect_jax import methods, models
from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from introspect_jax.methods.base import METRICS

NAMES = sorted(methods.modules())


def test_the_comparison_set_is_there():
    wanted = [
        "attention_transfer",
        "ban",
        "byot",
        "class_similarity_smoothing",
        "complement_entropy",
        "confidence_penalty",
        "cs_kd",
        "dkd",
        "dlb",
        "dml",
        "double_backprop",
        "introspective",
        "jacobian",
        "kd",
        "label_smoothing",
        "ols",
        "one",
        "ps_kd",
        "saliency_guided",
        "standard",
        "tf_kd_reg",
        "tf_kd_self",
    ]
    assert set(wanted) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_file_describes_itself(name):
    module = methods.modules()[name]
    line = next(x for x in methods.DOOR.describe().splitlines() if x.split()[0] == name)
    assert module.SUMMARY in line
    assert module.SOURCE in line
    assert re.match(r"\d\.\d\dx FLOPs", module.COST)
    assert module.COST in line
    assert "\n" not in module.SUMMARY + module.SOURCE
    method = make(name)
    params, model_state, method_state = method.init(jax.random.key(0))
    variables = method.predict(params, model_state, method_state)
    logits = models.make_logits_fn(method.model, variables)(jnp.zeros((2, 8, 8, 1)))
    assert logits.shape == (2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_every_method_keeps_the_same_books(name):
    method = make(name)
    value, (model_state, method_state, metrics) = loss(method, step=10)
    assert metrics.keys() >= set(METRICS)
    assert all(metric.shape == () for metric in metrics.values())
    assert value.shape == ()
    assert 0 <= metrics["accuracy"] <= 1
    assert 0 <= metrics["target_true_mass"] <= 1 + 1e-6
    assert 0 <= metrics["target_entropy"] <= jnp.log(4) + 1e-6
    assert metrics["degenerate"] == 0
    assert metrics["loss_weights"] > 0
    # The statistics move, and the state keeps its structure.
    before = method.init(jax.random.key(1))
    assert jax.tree.structure(method_state) == jax.tree.structure(before[2])
    assert any(
        (a != b).any()
        for a, b in zip(
            jax.tree.leaves(before[1]), jax.tree.leaves(model_state), strict=True
        )
    )


@pytest.mark.parametrize("name", NAMES)
def test_the_scale_does_not_depend_on_the_batch(name):
    """The loss of a batch is that of the same batch twice."""
    method = make(name)
    once = batch(method)
    pairs = jnp.arange(8).repeat(2).reshape(4, 4)[:, (0, 2, 1, 3)]  # x, x', x, x'
    twice = {
        key: value if key == "constants" else value[pairs.ravel()]
        for key, value in once.items()
    }
    if name == "ps_kd":  # an index comes once
        twice["index"] = jnp.arange(16)
    one = loss(method, once, step=10)[0]
    two = loss(make(name, given={"batch_size": 16}), twice, step=10)[0]
    assert jnp.allclose(one, two, rtol=2e-5), (
        "draw random numbers per example: fold batch['index'] into the key"
    )


@pytest.mark.parametrize("name", [n for n in NAMES if methods.teacher_kind(n)])
def test_without_a_teacher(name):
    """It can be looked at, not trained."""
    method = make(name, given={"teacher": None})
    assert method.init(jax.random.key(0))
    with pytest.raises(UserError, match=r"method\.teacher=RUN"):
        method.constants(None)


def test_unknown_method():
    config = default_config()
    config.method.name = "introspection"
    with pytest.raises(
        UserError,
        match=r"did you mean 'introspective'.*, ps_kd, saliency_guided, stand",
    ):
        methods.make(config.method, context())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_deployed_is_the_network_of_the_config(name):
    """Without branches, peers and teachers: `launch/export.py` writes it so."""
    network = context().model

    def deployed(key):
        method = make(name)
        return method.predict(*method.init(key))

    def alone(key):
        params, state = models.init_variables(network, (8, 8, 1), key)
        return {"params": params, **state}

    key = jax.random.key(0)
    assert jax.eval_shape(deployed, key) == jax.eval_shape(alone, key)
    assert make(name).model == network
