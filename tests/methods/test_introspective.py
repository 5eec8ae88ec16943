import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import CLASSES, batch, ce, images, log_probs, loss, make, states_equal

from introspect_jax import introspect, loss_fn, models
from introspect_jax.errors import UserError
from introspect_jax.methods.introspective import SOURCES
from introspect_jax.objectives.components import COMPONENTS


def now(**options):
    """The method with its whole weight from the first step on."""
    return make("introspective", **{"weight": 0.5, "ramp_up": 0.0} | options)


def soft_target(method, **options):
    """That of the new network, under its running statistics."""
    params, model_state, _ = method.init(jax.random.key(1))
    logits_fn = models.make_logits_fn(method.model, {"params": params, **model_state})
    return introspect(logits_fn, images(), batch(method)["label"], **options)


def test_it_is_introspect_and_loss_fn():
    method = now(temperature=0.3)
    value, (_, _, metrics) = loss(method, step=1)
    target = soft_target(method, temperature=0.3)
    logits = jnp.asarray(log_probs(method, images()), jnp.float32)
    wanted, parts = loss_fn(logits, batch(method)["label"], target, weight=0.5)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    for name in ("distillation", "target_entropy"):
        np.testing.assert_allclose(metrics[name], parts[name].mean(), rtol=1e-4)
    assert metrics["target_true_mass"] == 0
    np.testing.assert_allclose(metrics["loss_weights"], 1.5)


@pytest.mark.parametrize("every", [2, 3])
def test_every_nth_example_is_explained(every):
    """The others have the loss of standard training, whatever the weight."""
    method = now(temperature=0.3, explain_every=every)
    value, (state, _, metrics) = loss(method, step=1)
    labels = batch(method)["label"]
    logits = jnp.asarray(log_probs(method, images()), jnp.float32)
    target = soft_target(method, temperature=0.3)
    with_target, parts = loss_fn(logits, labels, target, weight=0.5)
    explained = np.arange(len(labels)) % every == 0
    assert 0 < explained.sum() < len(labels)
    wanted = np.where(explained, with_target, ce(labels, logits))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    soft = np.asarray(parts["distillation"])[explained]
    np.testing.assert_allclose(metrics["distillation"], soft.mean(), rtol=1e-4)
    _, (standard, _, said) = loss(make("standard"))
    states_equal(state, standard)
    assert metrics["accuracy"] == said["accuracy"]


def test_introspection_changes_no_statistics():
    """The batch statistics after a step are those of standard training."""
    _, (introspective, _, _) = loss(now(), step=5)
    _, (standard, _, _) = loss(make("standard"))
    states_equal(introspective, standard)


def test_the_weight_ramps_up():
    _, (_, _, metrics) = loss(make("introspective"), step=10)
    np.testing.assert_allclose(metrics["weight"], 0.1 * 10 / 20, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss_weights"], 1.05, rtol=1e-6)


def test_the_weight_falls_again():
    method = make("introspective", ramp_up=0.2, ramp_down=0.5)
    for step, wanted in ((10, 0.05), (50, 0.1), (75, 0.05), (99, 0.002)):
        _, (_, _, metrics) = loss(method, step=step)
        np.testing.assert_allclose(metrics["weight"], wanted, rtol=1e-5)


def test_an_average_of_the_network_is_explained():
    method = now(explained_decay=0.9)
    params, model_state, carried = method.init(jax.random.key(1))
    states_equal(carried["average"], (params, model_state))
    moved = jax.tree.map(lambda p: 1.1 * p + 0.01, params)
    states = (moved, model_state, carried)
    value, (_, after, _) = loss(method, step=91, states=states)
    # The average of before, nine parts of ten: (1 + 91) / (10 + 91) is above 0.9.
    mean = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, params, moved)
    for a, b in zip(
        jax.tree.leaves(after["average"][0]), jax.tree.leaves(mean), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    labels = batch(method)["label"]
    logits_fn = models.make_logits_fn(method.model, {"params": mean, **model_state})
    target = introspect(logits_fn, images(), labels)
    logs = log_probs(method, images(), params=moved, model_state=model_state)
    wanted, _ = loss_fn(jnp.asarray(logs, jnp.float32), labels, target, weight=0.5)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    # Its gradient is that of the network in training, not of the average.
    gradient = jax.grad(
        lambda p: loss(method, step=91, states=(p, model_state, carried))[0]
    )(moved)
    assert max(jnp.abs(g).max() for g in jax.tree.leaves(gradient)) > 0


def test_without_the_class_mean_weight_rows_say_nothing():
    """They are the same for all examples of a class."""
    method = now(source="weight_rows", remove_class_mean=True)
    _, (_, carried, metrics) = loss(method, step=1)
    assert carried["similarity_means"].shape == (CLASSES, CLASSES)
    np.testing.assert_allclose(metrics["target_entropy"], np.log(3), rtol=1e-5)
    method = now(remove_class_mean=True, temperature=0.1)
    _, (_, _, metrics) = loss(method, step=1)
    assert metrics["target_entropy"] < np.log(3) - 1e-4


def test_sources_differ():
    values = {}
    for source in SOURCES:
        value, (_, _, metrics) = loss(now(source=source), step=1)
        values[source] = float(value)
        assert metrics["target_entropy"] > 0
    assert len(set(values.values())) == len(SOURCES)


def test_weight_rows_see_no_image():
    """The target is that of the class, whatever the image."""
    method = now(source="weight_rows")
    params, *_ = method.init(jax.random.key(1))
    kernel = np.asarray(params["head"]["kernel"], np.float64)
    products = kernel.T @ kernel
    scores = products / np.diag(products)[:, None] / 0.5
    np.fill_diagonal(scores, -np.inf)
    target = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    labels = np.arange(8) % CLASSES
    logs = log_probs(method, images())
    wanted = ce(np.eye(CLASSES)[labels], logs).mean()
    for row, label, log in zip(target[labels], labels, logs, strict=True):
        rest = np.delete(log, label)
        rest = rest - np.log(np.exp(rest).sum())
        q = np.delete(row, label)
        wanted += 0.5 * (q * (np.log(q) - rest)).sum() / 8
    np.testing.assert_allclose(loss(method, step=1)[0], wanted, rtol=1e-4)


def test_a_random_network_is_not_this_one_and_does_not_change():
    method = now(source="random_network")
    random = method.constants(None)["random_network"]
    states_equal(random, method.constants(None)["random_network"])
    params, *_ = method.init(jax.random.key(1))
    kernel = params["backbone"]["conv0"]["kernel"]
    assert (random["params"]["backbone"]["conv0"]["kernel"] != kernel).any()
    other = now(source="random_network", given={"seed": 5}).constants(None)
    found = other["random_network"]["params"]["head"]["kernel"]
    assert (found != random["params"]["head"]["kernel"]).any()


def test_confusion_is_a_running_mean_of_the_outputs():
    method = now(source="confusion", class_decay=0.75)
    params, model_state, state = method.init(jax.random.key(1))
    np.testing.assert_array_equal(state["confusion"], 0)
    _, (_, first, _) = loss(method, step=1)
    said = np.exp(log_probs(method, images()))
    means = np.stack([said[label::CLASSES].mean(0) for label in range(CLASSES)])
    np.testing.assert_allclose(first["confusion"], means, rtol=1e-4)
    given = batch(method) | {"label": jax.nn.one_hot(jnp.zeros(8, int), CLASSES)}
    _, (_, second, _) = loss(method, given, 2, (params, model_state, first))
    np.testing.assert_allclose(
        second["confusion"][0], 0.75 * means[0] + 0.25 * said.mean(0), rtol=1e-4
    )
    np.testing.assert_array_equal(second["confusion"][1:], first["confusion"][1:])


@pytest.mark.parametrize("support", ["others", "all"])
def test_smoothed_labels_are_as_sure(support):
    method = now(source="smoothed_labels", support=support)
    value, (_, _, metrics) = loss(method, step=1)
    target = np.asarray(soft_target(method, support=support).probs, np.float64)
    labels = np.asarray(batch(method)["label"], np.float64)
    total = 1.5 if support == "others" else 1.0
    mixed = ((total - 0.5) * labels + 0.5 * target) / total
    safe = np.where(mixed > 0, mixed, 1)
    entropy = -(mixed * np.log(safe)).sum(-1)
    np.testing.assert_allclose(metrics["target_entropy"], entropy.mean(), rtol=1e-4)
    epsilon = 1 - metrics["target_true_mass"]
    assert 0 < epsilon < 3 / 4
    assert value > 0
    assert metrics["loss_weights"] == total


def test_components_of_introspection():
    values = {}
    for name in COMPONENTS:
        support = "all" if name == "ground_truth" else "others"
        value, (_, _, metrics) = loss(now(component=name, support=support), step=1)
        values[name] = float(value)
        if support == "others":
            assert metrics["target_true_mass"] == 0
    # Without mass on the label, the others are all there is.
    np.testing.assert_allclose(values["others"], values["full"], rtol=1e-6)
    assert len({round(v, 6) for v in values.values()}) == len(COMPONENTS) - 1


def test_permuted_similarities_keep_the_entropy():
    entropies = [
        loss(now(component=name), step=1)[1][2]["target_entropy"]
        for name in ("full", "permuted", "dkpp")
    ]
    np.testing.assert_allclose(entropies[1:], entropies[0], rtol=1e-5)


def test_class_average_is_a_running_mean_of_the_targets():
    method = now(component="class_average")
    _, (_, state, _) = loss(method, step=1)
    target = np.asarray(soft_target(method).probs)
    means = np.stack([target[label::CLASSES].mean(0) for label in range(CLASSES)])
    np.testing.assert_allclose(state["class_means"], means, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"explanation": "gradien"}, "did you mean 'gradient'"),
        ({"similarity": "cos"}, "there are: projection, cosine, dot"),
        ({"norms": "none"}, "there are: exact, last_layer"),
        ({"smoothgrad.num_samples": 0}, "smoothgrad: SmoothGrad: num_samples must be"),
        ({"vargrad.num_samples": 10**8}, "vargrad.num_samples must be at most 10000"),
        ({"integrated_gradients.rule": "lef"}, "did you mean 'left'"),
        ({"gradient_x_input.baseline": "black"}, "unknown baseline 'black'"),
        ({"chunk_size": -1}, "chunk_size must lie in 0..10000"),
        (
            {"explanation": "hires_cam", "similarity": "cosine", "norms": "last_layer"},
            "hires_cam explains feature maps",
        ),
        ({"support": "rest"}, "there are: others, all"),
        ({"temperature": -0.5}, r"temperature must lie in \(0, inf\), got -0.5"),
        ({"student_temperature": 0.0}, r"student_temperature must lie in"),
        ({"weight": -0.1}, r"weight must lie in \[0, inf\)"),
        ({"weight": 1.5, "support": "all"}, r"weight must lie in \[0, 1\], got 1.5"),
        ({"ramp_up": 2.0}, r"ramp_up must lie in \[0, 1\]"),
        ({"source": "weight_row"}, "did you mean 'weight_rows'"),
        ({"component": "other"}, "did you mean 'others'"),
        ({"permutation": "new"}, "there are: fresh, fixed"),
        ({"class_decay": 1.0}, r"class_decay must lie in \[0, 1\)"),
        ({"component": "ground_truth"}, "support=all"),
        ({"source": "smoothed_labels", "component": "others"}, "has no components"),
        ({"source": "entropy_matched"}, "did you mean 'smoothed_labels', its"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("introspective", **options)


def test_two_classes_need_the_support_all():
    with pytest.raises(UserError, match="support=all"):
        make("introspective", classes=2)
    assert make("introspective", classes=2, support="all")


def test_explain_every_counts_examples():
    with pytest.raises(UserError, match="explain_every must be at least 1, got 0"):
        make("introspective", explain_every=0)
