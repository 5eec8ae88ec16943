"""A batch that is sharded over a mesh gives the numbers of one device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, ConvNet
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from marks import slow_but

from introspect_jax import class_similarity, explain_fn, introspect, loss_fn
from introspect_jax.explain import (
    EXPLANATIONS,
    Absolute,
    ChannelSum,
    Cosine,
    Gradient,
    IntegratedGradients,
    LastLayer,
    Mask,
    Pool,
    Probes,
    SmoothGrad,
    Top,
    metrics,
)
from introspect_jax.explain.agreement import agreement_beyond, rank_agreement
from introspect_jax.explain.similarity import weight_row_similarity
from introspect_jax.explain.targets import contrast, log_probability

W = 0.2 * jax.random.normal(jax.random.key(0), (12, 5))
X = jax.random.normal(jax.random.key(1), (8, 12))
Y = jnp.arange(8) % 5
IMAGES = jax.random.normal(jax.random.key(2), (8, 4, 6, 2))


def logits_fn(x):
    return jnp.tanh(x @ W)


def image_fn(x):
    return jnp.tanh(x.mean((1, 2))) @ W[:2]


def sharded_like(mesh, *arrays):
    def put(array):
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec("d")))

    return [put(array) for array in arrays]


def test_the_default_mesh_is_explicit():
    assert jax.make_mesh((8,), ("d",)).axis_types == (AxisType.Explicit,)


FUNCTIONS = {
    "gradient": lambda x, y: explain_fn(logits_fn, x, y),
    "all": lambda x, y: explain_fn(logits_fn, x, "all", class_chunk_size=2),
    "top": lambda x, y: explain_fn(logits_fn, x, "top:2"),
    "contrast": lambda x, y: explain_fn(logits_fn, x, contrast(y, 2)),
    "log probability": lambda x, y: explain_fn(logits_fn, x, log_probability(y)),
    "centred": lambda x, y: explain_fn(logits_fn, x, y, center=True),
    "chunks": lambda x, y: explain_fn(
        logits_fn, x, y, IntegratedGradients(5), chunk_size=2
    ),
    "batched": lambda x, y: explain_fn(
        lambda x, m: logits_fn(x * m), x, y, IntegratedGradients(3), batched=(abs(x),)
    ),
    "noise": lambda x, y: explain_fn(
        logits_fn, x, y, SmoothGrad(noise=jnp.ones((8, 3, 12)) * 0.1)
    ),
    "mask": lambda x, y: explain_fn(logits_fn, x, y, Mask(Gradient(), jnp.ones(12))),
    "similarity": lambda x, y: class_similarity(logits_fn, x, y),
    "dot": lambda x, y: class_similarity(logits_fn, x, y, similarity="dot"),
    "cosine": lambda x, y: class_similarity(
        logits_fn, x, y, similarity="cosine", class_chunk_size=2
    ),
    "probes": lambda x, y: class_similarity(
        logits_fn, x, y, "gradient", Cosine(norms=Probes(4)), key=KEY
    ),
    "top norms": lambda x, y: class_similarity(
        logits_fn, x, y, "gradient", Cosine(norms=Top(2))
    ),
    "last layer": lambda x, y: class_similarity(
        lambda x: jnp.tanh(x) @ W,
        x,
        y,
        similarity=Cosine(norms=LastLayer(jnp.tanh, W)),
    ),
    "absolute": lambda x, y: class_similarity(logits_fn, x, y, Absolute(Gradient())),
    "soft labels": lambda x, y: class_similarity(
        logits_fn, x, jax.nn.softmax(logits_fn(x))
    ),
    "smoothgrad chunks": lambda x, y: class_similarity(
        logits_fn, x, y, SmoothGrad(4), key=KEY, chunk_size=2
    ),
    "weight rows": lambda x, y: weight_row_similarity(W, y),
    "introspect": lambda x, y: introspect(logits_fn, x, y).probs,
    "loss": lambda x, y: loss_fn(logits_fn(x), y, introspect(logits_fn, x, y))[0],
    "sensitivity": lambda x, y: metrics.max_sensitivity(
        logits_fn, x, y, noise=jnp.ones((8, 2, 12)) * 0.1
    ),
    "random logit": lambda x, y: metrics.random_logit_similarity(
        logits_fn, x, y, class_key=KEY
    ),
    "completeness": lambda x, y: metrics.completeness_error(logits_fn, x, y, x),
    "randomisation": lambda x, y: metrics.parameter_randomisation(
        lambda p, x: jnp.tanh(x @ p["w"]), x, y, params={"w": W},
        random_params={"w": W[::-1]}, layers=["w"],
    ),
    "rank agreement": lambda x, y: rank_agreement(logits_fn(x), x[:, :5], y)["class"],
    "beyond": lambda x, y: agreement_beyond(logits_fn(x), x[:, :5], x[:, 5:10], y),
}  # fmt: skip
IMAGE_FUNCTIONS = {
    "deletion": lambda x, y: metrics.deletion(image_fn, x, y, x, num_steps=3),
    "insertion": lambda x, y: metrics.insertion(
        image_fn, x, y, x, num_steps=3, chunk_size=2
    ),
    "pool": lambda x, y: explain_fn(image_fn, x, y, Pool(ChannelSum(Gradient()), 2)),
    "mean": lambda x, y: explain_fn(image_fn, x, y, IntegratedGradients(3, "mean")),
    "blur": lambda x, y: explain_fn(image_fn, x, y, IntegratedGradients(3, "blur")),
    "uniform": lambda x, y: explain_fn(
        image_fn, x, y, IntegratedGradients(3, "uniform"), key=KEY
    ),
}


NAMES = [*FUNCTIONS, *IMAGE_FUNCTIONS]
QUICK = ("all", "contrast", "chunks", "cosine", "top norms", "loss", "sensitivity")
QUICK += ("rank agreement", "deletion", "blur")


@pytest.mark.parametrize("name", slow_but(("all", "loss"), NAMES))
def test_numbers_of_one_device_on_an_automatic_mesh(name):
    check_numbers(AxisType.Auto, name)


@pytest.mark.parametrize("name", slow_but(QUICK, NAMES))
def test_numbers_of_one_device(name):
    check_numbers(AxisType.Explicit, name)


def check_numbers(kind, name):
    mesh = jax.make_mesh((8,), ("d",), axis_types=(kind,))
    function = FUNCTIONS.get(name) or IMAGE_FUNCTIONS[name]
    inputs = X if name in FUNCTIONS else IMAGES
    wanted = jax.jit(function)(inputs, Y)
    here = sharded_like(mesh, inputs, Y)
    for run in (function, jax.jit(function)):
        found = np.asarray(run(*here))
        # Relative to the row: a projection on a short explanation is ill-conditioned.
        scale = np.abs(wanted).max(tuple(range(1, wanted.ndim)), keepdims=True)
        np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
        assert not (np.abs(found - wanted) > 1e-4 * scale + 1e-5).any()


@pytest.mark.parametrize(
    "name", slow_but(("gradient", "vargrad"), sorted(EXPLANATIONS))
)
def test_every_explanation_of_a_convolution(name):
    """Convolutions on explicit axes need the mesh of the context."""
    mesh = jax.make_mesh((8,), ("d",))
    net = ConvNet()
    explanation = net.explanation(name, count=3)

    def run(x, y):
        similar = class_similarity(net, x, y, explanation, key=KEY)
        maps = explain_fn(net, x, y, explanation, key=KEY, chunk_size=2)
        return similar, maps

    wanted = jax.jit(run)(IMAGES, Y)
    with jax.set_mesh(mesh):
        found = jax.jit(run)(*sharded_like(mesh, IMAGES, Y))
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
