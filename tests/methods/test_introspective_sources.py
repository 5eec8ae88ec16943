"""Sources of class similarity, and targets of a wanted entropy."""

import functools
import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import CLASSES, batch, ce, images, kl, log_probs, loss, make
from marks import slow_but

from introspect_jax import class_similarity, models
from introspect_jax.errors import UserError
from introspect_jax.explain import Centered, GradCAM
from introspect_jax.explain.similarity import logit_similarity, weight_row_similarity
from introspect_jax.methods.introspective import SOURCES
from introspect_jax.objectives.losses import entropy
from introspect_jax.objectives.targets import similarity_target, smooth_to_entropy

TEMPERATURE = 0.3
# Without explanations, so that a step is compiled soon.
ROWS = {"source": "weight_rows", "weight": 0.5, "ramp_up": 0.0}


def now(classes=CLASSES, **options):
    """The method with its whole weight from the first step on."""
    plain = {"weight": 0.5, "ramp_up": 0.0, "temperature": TEMPERATURE}
    return make("introspective", classes=classes, **plain | options)


@functools.cache
def network(classes):
    """Network, its variables, images and labels, and log-probabilities in training."""
    method = make("standard", classes=classes)
    params, model_state, _ = method.init(jax.random.key(1))
    given = batch(method, classes=classes)
    variables = {"params": params, **model_state}
    return method.model, variables, given["label"], log_probs(method, images())


def scores(source, classes):
    """Similarities of a source, by the public functions."""
    model, variables, labels, logs = network(classes)
    if source == "random_network":
        variables = now(classes, source=source, support="all").constants(None)[source]
    logits_fn = models.make_logits_fn(model, variables)
    kernel, bias = models.last_layer(model, variables)
    if source == "weight_rows":
        return weight_row_similarity(kernel, labels)
    if source == "confusion":
        means = labels.T @ np.exp(logs) / labels.sum(0)[:, None]
        return jnp.log(labels @ means)
    if source == "own_logits":
        return logit_similarity(logits_fn(images()), labels, bias=bias)
    explanation = "gradient"
    if source == "covariance":
        maps_fn = models.make_maps_fn(model, variables)
        explanation = Centered(
            GradCAM(maps_fn, models.make_classify_fn(model, variables))
        )
    return jax.jit(lambda x: class_similarity(logits_fn, x, labels, explanation))(
        images()
    )


@pytest.mark.parametrize(
    ("source", "classes", "support"),
    slow_but(
        [("own_logits", 4, "others"), ("covariance", 4, "others")]
        + [(source, 2, "all") for source in SOURCES],
        [
            (source, classes, support)
            for source in SOURCES
            for classes, support in ((2, "all"), (4, "all"), (4, "others"))
        ],
    ),
)
def test_every_source_has_both_supports(source, classes, support):
    """The loss by its formula, with the similarities of public functions; two classes
    have the support of all."""
    method = now(classes, source=source, support=support)
    value, (_, _, metrics) = loss(method, batch(method, classes=classes), step=1)
    *_, labels, logs = network(classes)
    target = similarity_target(
        scores(source, classes), labels, temperature=TEMPERATURE, support=support
    )
    q, hard = np.asarray(target.probs, np.float64), ce(labels, logs)
    rest = logs - np.log(1 - np.exp((labels * logs).sum(-1, keepdims=True)))
    total, rest_weight = (1.5, 1.0) if support == "others" else (1.0, 0.5)
    if source == "smoothed_labels":
        mixed = (rest_weight * labels + 0.5 * q) / total
        q = smooth_to_entropy(labels, classes, entropy(mixed)).probs
        wanted = total * ce(q, logs)
    elif support == "all":
        wanted = 0.5 * hard + 0.5 * ce(q, logs)
    else:
        others = np.asarray(labels) == 0
        wanted = hard + 0.5 * np.array(
            [kl(a[o], b[o]) for a, b, o in zip(q, rest, others, strict=True)]
        )
    np.testing.assert_allclose(value, wanted.mean(), rtol=2e-4)
    found = float(metrics["target_true_mass"])
    np.testing.assert_allclose(found, (labels * q).sum(-1).mean(), atol=1e-4)
    assert metrics["degenerate"] == 0


def test_own_logits_of_a_network_without_a_last_layer(caplog):
    """It is said once, and the bias stays in the logits."""

    class Plain(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return nn.Dense(CLASSES, bias_init=nn.initializers.normal())(
                images.reshape(len(images), -1)
            )

    with caplog.at_level(logging.WARNING):
        method = now(source="own_logits", given={"model": Plain()})
        _, (_, _, metrics) = loss(method, step=1)
    assert caplog.text.count("the network has no 'last_layer'") == 1
    params, *_ = method.init(jax.random.key(1))
    logits = Plain().apply({"params": params}, images())
    labels = batch(method)["label"]
    target = similarity_target(
        logit_similarity(logits, labels), labels, temperature=TEMPERATURE
    )
    wanted = entropy(target.probs).mean()
    np.testing.assert_allclose(metrics["target_entropy"], wanted, rtol=1e-5)


@pytest.mark.parametrize("support", ["others", "all"])
@pytest.mark.parametrize("wanted", ["0.8", "network", "own_logits"])
def test_the_target_has_the_wanted_entropy(support, wanted):
    """With mixed labels, an example that is ignored, and every second explained."""
    matched = {**ROWS, "support": support, "explain_every": 2}
    method = now(**matched, target_entropy=wanted)
    given = batch(method)
    labels = given["label"].at[0].set(0).at[2].set(jnp.array([0, 0, 0.6, 0.4]))
    _, (_, _, metrics) = loss(method, given | {"label": labels}, step=1)
    model, variables, _, logs = network(CLASSES)
    rows, kept = labels[::2], np.array([1, 2, 3])
    reference, temperature = (jnp.asarray(logs[::2], jnp.float32), 1.0)
    if wanted == "own_logits":
        _, bias = models.last_layer(model, variables)
        logits = models.make_logits_fn(model, variables)(images())[::2]
        reference = logit_similarity(logits, rows, bias=bias)
        temperature = TEMPERATURE
    target = similarity_target(
        reference, rows, temperature=temperature, support=support
    )
    entropies, unreached = entropy(target.probs), np.zeros(4)
    if wanted == "0.8":
        entropies = np.full(4, 0.8)
        if support == "others":  # the mixed label leaves two classes
            entropies[1], unreached[1] = np.log(2), 1
    np.testing.assert_allclose(
        metrics["target_entropy"], np.mean(entropies[kept]), atol=1e-3
    )
    np.testing.assert_allclose(metrics["entropy_unreached"], unreached[kept].mean())


def test_one_temperature_for_the_batch_and_its_running_mean():
    """Two parts, one without labels, are combined as the trainer does."""
    options = {**ROWS, "target_entropy": 0.9, "class_decay": 0.5}
    method = now(**options, entropy_matching="batch")
    _, (_, state, metrics) = loss(method, step=1)
    np.testing.assert_allclose(metrics["target_entropy"], 0.9, atol=1e-3)
    assert state == {}
    assert metrics["entropy_unreached"] == 0
    first = metrics["temperature"]

    method = now(**options, entropy_matching="running")
    params, model_state, before = method.init(jax.random.key(1))
    _, (_, after, metrics) = loss(method, step=1)
    np.testing.assert_allclose(metrics["temperature"], first, rtol=1e-5)
    nothing = batch(method) | {"label": jnp.zeros((8, CLASSES))}
    value, (_, empty, _) = loss(method, nothing, step=1)
    assert value == 0
    carried = jax.tree.map(lambda a, b: (a + b) / 2, after, empty)
    # Of another network, whose rows have another temperature.
    params = jax.tree.map(lambda p: p + 0.5, params)
    states = (params, model_state, carried)
    _, (_, last, metrics) = loss(method, step=2, states=states)
    np.testing.assert_allclose(metrics["temperature"], first, rtol=1e-5)
    fresh = loss(method, step=2, states=(params, model_state, before))[1][2]
    second = fresh["temperature"]
    assert abs(second / first - 1) > 0.1
    # Weights 1/8 and 1/2: half of the half of the one part, and half.
    mean = jnp.exp(last["temperature"][0] / last["temperature"][1])
    wanted = first ** (1 / 5) * second ** (4 / 5)
    np.testing.assert_allclose(mean, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"target_entropy": "netwrk"}, "did you mean 'network'"),
        ({"target_entropy": "1.2.3"}, "there are: a number of nats, network, expl"),
        ({"target_entropy": "-1"}, r"target_entropy must lie in \[0, inf\), got -1"),
        ({"target_entropy": "nan"}, "got nan"),
        ({"target_entropy": 1.2}, r"at most log\(3\) = 1.099 nats"),
        ({"target_entropy": True}, "must be a number of nats or a string, got True"),
        ({"target_entropy": "entropy_matched"}, "did you mean 'smoothed_labels'"),
        ({"target_entropy": "smoothed_labels"}, "name another source"),
        ({"entropy_matching": "bach"}, "did you mean 'batch'"),
        (
            {"source": "covariance", "similarity": "cosine", "norms": "last_layer"},
            "use exact, probes:s or top:m",
        ),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("introspective", **options)


def test_maps_of_one_position_have_no_covariance():
    with pytest.raises(UserError, match="the last maps of the network have one"):
        make("introspective", source="covariance", given={"image_shape": (4, 4, 1)})
