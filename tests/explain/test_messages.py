"""What users bring instead of what is wanted: one line says what to do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from introspect_jax import class_similarity, explain_fn, introspect
from introspect_jax.explain import (
    Cosine,
    Exact,
    Gradient,
    IntegratedGradients,
    Probes,
    SmoothGrad,
    Top,
    metrics,
)

pytestmark = pytest.mark.untyped
KEY = jax.random.key(0)
W = jax.random.normal(KEY, (6, 5))
X = jax.random.normal(jax.random.key(1), (4, 6))
Y = jnp.arange(4)


def logits_fn(x):
    return jnp.tanh(x @ W)


@pytest.mark.parametrize(
    ("function", "inputs", "says"),
    [
        (lambda x: (logits_fn(x), {}), X, "got a tuple of 2; wrap it, as in lambda x"),
        (lambda x: {"logits": x}, X, "got a dict with the keys 'logits'; wrap it"),
        (lambda x: None, X, "got a NoneType"),
        (lambda x: x["a"], {"a": X, "b": X}, "a dict with the keys 'a', 'b'; explain"),
        (lambda x: x[0], (X, X), "inputs must be one array, got a tuple of 2"),
        (logits_fn, X.tolist(), "inputs must be one array, got a list of 4"),
        (lambda x: logits_fn(x)[0], X, r"\[batch, classes\] with batch 4, got \[5\]"),
        (logits_fn, jnp.ones((4, 6), bool), "floating point to be differentiated"),
        (logits_fn, jnp.float32(1), r"inputs must be \[batch, ...\], got a scalar"),
    ],
)
def test_inputs_and_outputs_of_another_kind(function, inputs, says):
    calls = (
        lambda: explain_fn(function, inputs, 0),
        lambda: class_similarity(function, inputs, Y),
        lambda: introspect(function, inputs, Y),
    )
    for call in calls:
        with pytest.raises(ValueError, match=says) as error:
            call()
        assert "\n" not in str(error.value)


@jax.custom_vjp
def guided_relu(x):
    return jnp.maximum(x, 0)


# Springenberg et al. 2015: negative cotangents are dropped, so it is not linear.
guided_relu.defvjp(
    lambda x: (guided_relu(x), x),
    lambda x, g: (jnp.where((x > 0) & (g > 0), g, 0.0),),
)


def guided(x):
    return guided_relu(x @ W) @ W[:5]


@pytest.mark.parametrize("similarity", ["projection", "dot", Cosine(norms=Probes(2))])
@pytest.mark.parametrize(
    "explanation", [Gradient(), IntegratedGradients(3), SmoothGrad(3)]
)
def test_a_backward_pass_that_is_not_linear(explanation, similarity):
    for run in (class_similarity, jax.jit(class_similarity, static_argnums=(0, 3, 4))):
        with pytest.raises(ValueError, match=r"not linear.*Cosine\(norms=Exact\(\)\)"):
            run(guided, X, Y, explanation, similarity, key=KEY)


def test_the_exact_cosine_serves_it():
    found = class_similarity(guided, X, Y, "gradient", Cosine(norms=Exact()))
    maps = np.asarray(explain_fn(guided, X, "all"))
    own = maps[np.arange(4), Y]
    norms = np.linalg.norm(maps, axis=-1) * np.linalg.norm(own, axis=-1)[:, None]
    wanted = np.divide(
        np.einsum("bkp,bp->bk", maps, own), norms, np.zeros_like(norms), where=norms > 0
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-6)


MASK = jnp.asarray(np.random.RandomState(0).rand(4, 6) > 0.3, jnp.float32)


def masked(x, mask):
    return logits_fn(x * mask)


@pytest.mark.parametrize("chunk_size", slow_but([2], [None, 2]))
def test_arrays_with_a_row_for_each_example(chunk_size):
    """As an argument they are repeated with the inputs; closed over, they are named."""
    options = {"key": KEY, "chunk_size": chunk_size, "index": jnp.arange(4)}
    for explanation in (IntegratedGradients(4), SmoothGrad(4)):
        found = explain_fn(masked, X, Y, explanation, batched=(MASK,), **options)
        similar = class_similarity(
            masked, X, Y, explanation, Cosine(norms=Top(2)), batched=(MASK,), **options
        )
        for i in range(4):
            one = slice(i, i + 1)
            row = options | {"index": jnp.array([i])}

            def alone(x, i=i):
                return logits_fn(x * MASK[i][None])

            wanted = explain_fn(alone, X[one], Y[one], explanation, **row)
            np.testing.assert_allclose(found[one], wanted, rtol=1e-4, atol=1e-6)
            wanted = class_similarity(
                alone, X[one], Y[one], explanation, Cosine(norms=Top(2)), **row
            )
            np.testing.assert_allclose(similar[one], wanted, rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match=r"batched=\(mask,\)"):
            explain_fn(lambda x: masked(x, MASK), X, Y, explanation, **options)


def test_metrics_and_introspection_repeat_them_too():
    images, mask = X.reshape(4, 2, 3, 1), MASK.reshape(4, 2, 3, 1)

    def network(x, mask):
        return logits_fn((x * mask).reshape(len(x), 6))

    area = metrics.deletion(network, images, Y, images, num_steps=3, batched=(mask,))
    moved = metrics.max_sensitivity(masked, X, Y, noise_key=KEY, batched=(MASK,))
    other = metrics.random_logit_similarity(
        masked, X, Y, class_key=KEY, batched=(MASK,)
    )
    target = introspect(masked, X, Y, batched=(MASK,)).probs
    for i in range(4):
        one = slice(i, i + 1)
        np.testing.assert_allclose(
            metrics.deletion(
                network, images[one], Y[one], images[one], num_steps=3,
                batched=(mask[one],),
            ),
            area[one],
            rtol=1e-4,
        )  # fmt: skip
        np.testing.assert_allclose(
            introspect(masked, X[one], Y[one], batched=(MASK[one],)).probs,
            target[one],
            rtol=1e-4,
            atol=1e-6,
        )
    assert moved.shape == other.shape == (4,)
    with pytest.raises(ValueError, match=r"batched must hold arrays with 4 rows"):
        explain_fn(masked, X, Y, batched=(MASK[:3],))


def test_an_error_of_the_network_itself_is_not_explained_away():
    with pytest.raises(TypeError, match="incompatible shapes"):
        explain_fn(lambda x: x @ W + jnp.ones((3, 5)), X, Y)


def test_what_is_of_no_use_is_refused():
    with pytest.raises(TypeError, match="unexpected keyword argument 'head'"):
        explain_fn(logits_fn, X, Y, head=(logits_fn, logits_fn, None))
    params = {"layer1": W, "layer10": W}
    found = metrics.parameter_randomisation(
        lambda p, x: jnp.tanh(x @ p["layer1"]) + x @ p["layer10"],
        X,
        Y,
        params=params,
        random_params=jax.tree.map(lambda p: -p[::-1], params),
        layers=["layer1", "layer10"],
    )
    whole = metrics.parameter_randomisation(
        lambda p, x: jnp.tanh(x @ p["layer1"]) + x @ p["layer10"],
        X,
        Y,
        params=params,
        random_params=jax.tree.map(lambda p: -p[::-1], params),
        layers=[["layer1", "layer10"]],
    )
    assert not np.allclose(found[0], found[1])
    np.testing.assert_allclose(whole[0], found[1], rtol=1e-5)
    with pytest.raises(ValueError, match="no parameter belongs to the layer 'layer'"):
        metrics.parameter_randomisation(
            lambda p, x: x @ p["layer1"], X, Y, params=params, random_params=params,
            layers=["layer"],
        )  # fmt: skip
    for temperature in (0, np.float32(0), jnp.float32(-1), np.nan):
        with pytest.raises(ValueError, match="temperature must be above 0"):
            introspect(logits_fn, X, Y, temperature=temperature)
