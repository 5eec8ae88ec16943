import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import TinyBackbone

from introspect_jax import methods, models
from introspect_jax.config import default_config
from introspect_jax.errors import UserError
from introspect_jax.methods import Context


def context(classes=4):
    return Context(
        model=models.Classifier(TinyBackbone(), classes),
        num_classes=classes,
        image_shape=(8, 8, 1),
        total_steps=100,
        steps_per_epoch=10,
    )


def make(name, classes=4, **options):
    config = default_config()
    config.method.name = name
    config.method[name].update(options)
    return methods.make(config.method, context(classes))


@pytest.fixture
def batch():
    images = jax.random.normal(jax.random.key(0), (8, 8, 8, 1))
    labels = jax.nn.one_hot(jnp.arange(8) % 4, 4)
    return {"image": images, "label": labels, "index": jnp.arange(8)}


def log_probs(method, batch):
    params, model_state, _ = method.init(jax.random.key(1))
    logits, _ = method.model.apply(
        {"params": params, **model_state},
        batch["image"],
        train=True,
        mutable=["batch_stats"],
    )
    return np.asarray(jax.nn.log_softmax(logits), np.float64)


@pytest.mark.parametrize("name", sorted(methods.modules()))
def test_every_file_describes_itself(name):
    module = methods.modules()[name]
    assert "\n" not in module.SUMMARY
    assert module.SOURCE
    method = make(name)
    params, model_state, method_state = method.init(jax.random.key(0))
    variables = method.predict(params, model_state, method_state)
    logits = models.make_logits_fn(method.model, variables)(jnp.zeros((2, 8, 8, 1)))
    assert logits.shape == (2, 4)


def loss(method, batch, step=0):
    state = method.init(jax.random.key(1))
    return method.loss(*state, batch, jnp.asarray(step), jax.random.key(2))


def test_standard_is_the_mean_cross_entropy(batch):
    method = make("standard")
    value, (model_state, method_state, metrics) = loss(method, batch)
    wanted = -(np.asarray(batch["label"]) * log_probs(method, batch)).sum(-1)
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    assert method_state == {}
    assert 0 <= metrics["accuracy"] <= 1
    before = method.init(jax.random.key(1))[1]
    assert not np.allclose(jax.tree.leaves(before)[0], jax.tree.leaves(model_state)[0])


def test_label_smoothing_by_its_formula(batch):
    method = make("label_smoothing", epsilon=0.2)
    value, _ = loss(method, batch)
    targets = 0.8 * np.asarray(batch["label"]) + 0.2 / 4
    wanted = -(targets * log_probs(method, batch)).sum(-1).mean()
    np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_introspection_changes_no_statistics(batch):
    """The batch statistics after a step are those of standard training."""
    _, (introspective, _, _) = loss(make("introspective", ramp_up=0.0), batch, step=5)
    _, (standard, _, _) = loss(make("standard"), batch)
    for a, b in zip(
        jax.tree.leaves(introspective), jax.tree.leaves(standard), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_introspective_reports_its_target(batch):
    _, (_, _, metrics) = loss(make("introspective"), batch, step=10)
    assert metrics.keys() >= {
        "accuracy",
        "cross_entropy",
        "distillation",
        "target_entropy",
        "target_true_mass",
        "degenerate",
        "weight",
    }
    assert 0 < metrics["target_entropy"] <= np.log(3) + 1e-6
    assert metrics["target_true_mass"] == 0
    np.testing.assert_allclose(metrics["weight"], 0.1 * 10 / 20, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("label_smoothing", {"epsilon": 1.0}, "epsilon must lie in"),
        ("label_smoothing", {"spread": "other"}, "did you mean 'others'"),
        ("introspective", {"explanation": "gradien"}, "did you mean 'gradient'"),
        ("introspective", {"similarity": "cos"}, "there are: projection, cosine, dot"),
        ("introspective", {"norms": "none"}, "there are: exact, last_layer"),
        ("introspective", {"support": "rest"}, "there are: others, all"),
        ("introspective", {"temperature": -0.5}, "above 0"),
        ("introspective", {"student_temperature": 0.0}, "above 0"),
        ("introspective", {"weight": -0.1}, "must not be negative"),
        ("introspective", {"weight": 1.5, "support": "all"}, "at most 1"),
        ("introspective", {"ramp_up": 2.0}, "share of all steps"),
    ],
)
def test_options_out_of_range(name, options, says):
    with pytest.raises(UserError, match=says):
        make(name, **options)


def test_two_classes_need_the_support_all():
    with pytest.raises(UserError, match="support=all"):
        make("introspective", classes=2)
    assert make("introspective", classes=2, support="all")


def test_unknown_method():
    config = default_config()
    config.method.name = "introspection"
    with pytest.raises(UserError, match="introspective, label_smoothing, standard"):
        methods.make(config.method, context())
