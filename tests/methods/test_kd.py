import jax
import numpy as np
import pytest
from harness import (
    CLASSES,
    batch,
    ce,
    images,
    kl,
    log_probs,
    loss,
    make,
    teacher,
    teacher_probs,
)

from introspect_jax.errors import UserError
from introspect_jax.objectives.components import COMPONENTS


def test_it_is_by_its_formula():
    method = make("kd")
    value, _ = loss(method)
    hard = ce(batch(method)["label"], log_probs(method, images()))
    soft = kl(teacher_probs(images(), 4.0), log_probs(method, images(), 4.0))
    np.testing.assert_allclose(value, (0.1 * hard + 14.4 * soft).mean(), rtol=1e-4)


def test_the_teacher_gets_no_gradient_and_does_not_change():
    method = make("kd")
    given = batch(method)

    def total(constants):
        return loss(method, given | {"constants": constants})[0]

    for leaf in jax.tree.leaves(jax.grad(total)(given["constants"])):
        np.testing.assert_array_equal(leaf, 0)


def test_components_differ_and_say_what_they_are():
    values = {}
    for name in COMPONENTS:
        method = make("kd", component=name)
        values[name] = loss(method)
    found = {name: float(value[0]) for name, value in values.items()}
    assert len(set(found.values())) == len(COMPONENTS)
    metrics = {name: value[1][2] for name, value in values.items()}
    own = teacher_probs(images(), 4.0)[np.arange(8), np.arange(8) % CLASSES].mean()
    for name in ("full", "ground_truth", "permuted"):
        np.testing.assert_allclose(
            metrics[name]["target_true_mass"], own, rtol=1e-5, err_msg=name
        )
    for name in ("others", "uniform"):
        assert metrics[name]["target_true_mass"] == 0
    for name in ("permuted", "dkpp"):
        np.testing.assert_allclose(
            metrics[name]["target_entropy"],
            metrics["full"]["target_entropy"],
            rtol=1e-5,
        )


def test_the_class_average_is_the_teachers():
    means = teacher().mean_probs(4.0)
    method = make("kd", component="class_average")
    value, _ = loss(method)
    labels = np.arange(8) % CLASSES
    hard = ce(np.eye(CLASSES)[labels], log_probs(method, images()))
    soft = kl(means[labels], log_probs(method, images(), 4.0))
    np.testing.assert_allclose(value, (0.1 * hard + 14.4 * soft).mean(), rtol=1e-4)


def test_the_weights_of_cwtm_are_the_teachers_confidence():
    """At temperature 1, whatever that of distillation."""
    value, _ = loss(make("kd", component="cwtm"))
    largest = teacher_probs(images(), 1.0).max(-1)
    labels = np.eye(CLASSES)[np.arange(8) % CLASSES]
    hard = ce(labels, log_probs(make("kd"), images()))
    wanted = 0.1 * hard + 0.9 * largest / largest.mean() * hard
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)


def test_a_fresh_permutation_changes_with_the_step_and_a_fixed_one_does_not():
    def at(permutation, key):
        method = make("kd", component="permuted", permutation=permutation)
        states = method.init(jax.random.key(1))
        return float(method.loss(*states, batch(method), 0, jax.random.key(key))[0])

    assert at("fresh", 0) != at("fresh", 1)
    assert at("fixed", 0) == at("fixed", 1)


@pytest.mark.parametrize(
    ("classes", "options", "says"),
    [
        (4, {"alpha": 1.5}, r"alpha must lie in \[0, 1\]"),
        (4, {"temperature": -1.0}, r"temperature must lie in \(0, inf\)"),
        (4, {"component": "other"}, "did you mean 'others'"),
        (4, {"permutation": "new"}, "there are: fresh, fixed"),
        (2, {"component": "others"}, "the data have 2 classes"),
    ],
)
def test_options_out_of_range(classes, options, says):
    with pytest.raises(UserError, match=says):
        make("kd", classes, **options)
