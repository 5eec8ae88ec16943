"""Labels of every kind: types, ignored and invalid ones, smoothed and mixed ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every import CLASSES, LABELS, LOGITS, LOSSES, TARGETS, all_targets, everything

from introspect_jax.objectives import components, losses, targets

INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32"]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_class_numbers_of_any_type(dtype):
    label = np.array([5], dtype)
    probs = np.asarray(targets.as_probs(label, 1000))
    np.testing.assert_array_equal(np.flatnonzero(probs[0]), [5])
    assert probs.sum() == 1
    jitted = jax.jit(targets.as_probs, static_argnums=1)(label, 1000)
    np.testing.assert_array_equal(jitted, probs)
    others = np.asarray(targets.other_classes(label, 1000))
    np.testing.assert_array_equal(np.flatnonzero(~others[0]), [5])
    logits = np.linspace(0, 1, 1000, dtype="f4")[None]
    wanted = -(logits[0, 5] - np.log(np.exp(logits).sum()))
    np.testing.assert_allclose(losses.cross_entropy(logits, label), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint32", "int64"])
def test_keys_and_means_of_classes_of_any_type(dtype):
    labels = LABELS.astype(dtype)
    if dtype != "int64":
        labels = jnp.asarray(labels)

    def keys(numbers):
        made = components.permutation_keys(
            "fixed",
            step_key=jax.random.key(0),
            fixed_key=jax.random.key(1),
            indices=np.arange(4, dtype="u1"),
            labels=numbers,
        )
        return jax.random.key_data(made)

    wanted = keys(jnp.asarray(LABELS, jnp.int32))
    np.testing.assert_array_equal(keys(labels), wanted)
    np.testing.assert_array_equal(keys(np.eye(CLASSES)[LABELS].astype("f4")), wanted)
    probs = np.eye(CLASSES, dtype="f4")[[1, 2, 3, 4]]
    means = np.zeros((CLASSES, CLASSES), "f4")
    moved = components.update_class_means(means, probs, labels, 0.9)
    np.testing.assert_allclose(moved[3], [0, 0, 0.5, 0, 0.5])
    np.testing.assert_allclose(moved[0], [0, 1, 0, 0, 0])


@pytest.mark.parametrize("dtype", ["int32", "uint8", "bool", "float32"])
def test_one_hot_rows_of_any_type(dtype):
    rows = np.eye(CLASSES)[LABELS].astype(dtype)
    wanted = losses.cross_entropy(LOGITS, LABELS)
    np.testing.assert_array_equal(losses.cross_entropy(LOGITS, rows), wanted)
    target = targets.uniform_others(rows, CLASSES)
    np.testing.assert_array_equal(
        target.probs, targets.uniform_others(LABELS, CLASSES).probs
    )


IGNORED = {
    "number": np.array([0, -1, 2, 3]),
    "int8": np.array([0, -1, 2, 3], "i1"),
    "zeros": np.eye(CLASSES, dtype="f4")[[0, 3, 2, 3]]
    * np.array([[1], [0], [1], [1]], "f4"),
}


# Each compiles every loss.
SOME_IGNORED = [
    kind if kind == "number" else pytest.param(kind, marks=pytest.mark.slow)
    for kind in IGNORED
]


@pytest.mark.parametrize("kind", SOME_IGNORED)
def test_an_ignored_example_has_no_loss_and_no_gradient(kind):
    labels = IGNORED[kind]
    logits = jnp.asarray(LOGITS).at[1, 0].set(jnp.nan)  # nothing of the row is used
    whole = everything(LOGITS, LABELS)
    rest = np.array([0, 2, 3])
    for name, (values, grads) in everything(logits, labels).items():
        assert values[1] == 0, name
        np.testing.assert_array_equal(grads[1], 0, err_msg=name)
        wanted, wanted_grads = whole[name]
        assert np.abs(wanted[rest]).max() > 1e-3, name
        if name == "distil_component_cwtm":
            continue  # its weights depend on the whole batch
        np.testing.assert_allclose(
            values[rest], wanted[rest], rtol=2e-6, atol=1e-7, err_msg=name
        )
        np.testing.assert_allclose(
            grads[rest], wanted_grads[rest], rtol=2e-5, atol=1e-6, err_msg=name
        )


def test_an_ignored_example_without_jit():
    for name in ("cross_entropy", "from_teacher", "objective_similarity_all"):
        values = LOSSES[name](jnp.asarray(LOGITS), IGNORED["number"])
        assert values[1] == 0, name
        wanted = everything(LOGITS, LABELS)[name][0]
        np.testing.assert_allclose(values[::2], wanted[::2], rtol=2e-6, err_msg=name)


def test_the_target_of_an_ignored_example_is_empty():
    for name, target in all_targets(IGNORED["number"]).items():
        np.testing.assert_array_equal(target.probs[1], 0, err_msg=name)
        np.testing.assert_allclose(
            target.probs.sum(-1), [1, 0, 1, 1], rtol=1e-6, err_msg=name
        )
        if not name.startswith("smooth"):
            np.testing.assert_array_equal(
                target.degenerate, [False, True, False, False], err_msg=name
            )


@pytest.mark.parametrize("bad", [5, -2, 127])
def test_a_class_that_does_not_exist(bad):
    labels = np.array([0, bad, 2, 3], "i1")
    for call in (
        lambda y: losses.cross_entropy(LOGITS, y),
        lambda y: losses.complement_entropy(LOGITS, y),
        lambda y: targets.other_classes(y, CLASSES),
        lambda y: targets.smooth_labels(y, CLASSES, 0.1),
        lambda y: components.confidence_weights(jnp.ones((4, 5)) / 5, y),
        lambda y: losses.describe_target(TARGETS["label"](LABELS), y),
    ):
        with pytest.raises(ValueError, match=r"labels must lie in 0\.\.4"):
            call(labels)


@pytest.mark.parametrize(
    "dtype", [pytest.param("int32", marks=pytest.mark.slow), "uint8"]
)
def test_a_class_that_does_not_exist_gives_nan_under_jit(dtype):
    labels = np.array([0, 5, 2, 3], dtype)
    for name, (values, _) in everything(LOGITS, labels).items():
        np.testing.assert_array_equal(
            np.isnan(values), [False, True, False, False], err_msg=name
        )


def test_a_target_of_a_class_that_does_not_exist_is_nan_under_jit():
    for name, target in all_targets(np.array([0, 5, 2, 3])).items():
        assert np.isnan(target.probs[1]).all(), name
        assert np.isfinite(target.probs[np.array([0, 2, 3])]).all(), name
    means = jax.jit(components.update_class_means)(
        np.eye(CLASSES, dtype="f4"), LOGITS, np.array([0, 5, 2, 3]), 0.9
    )
    assert np.isnan(means).all()


def test_weights_and_means_count_labelled_examples_only():
    probs = np.array([[0.9, 0.1], [0.5, 0.5], [0.6, 0.4]], "f4")
    labels = np.array([0, -1, 1])
    weights = components.confidence_weights(probs, labels)
    np.testing.assert_allclose(weights, [1.2, 0, 0.8], rtol=1e-6)
    nobody = components.confidence_weights(probs, np.array([-1, -1, -1]))
    np.testing.assert_array_equal(nobody, 0)
    zeroed = components.confidence_weights(np.where(labels[:, None] < 0, 0, probs))
    np.testing.assert_allclose(zeroed, [1.2, 0, 0.8], rtol=1e-6)
    before = np.array([[0.5, 0.5], [0.0, 1.0]], "f4")
    probs[1] = np.nan
    after = components.update_class_means(before, probs, labels, 0.5)
    np.testing.assert_allclose(after, [[0.7, 0.3], [0.3, 0.7]], rtol=1e-6)
    same = components.update_class_means(before, probs, np.array([-1, -1, -1]), 0.5)
    np.testing.assert_array_equal(same, before)


def test_negative_probabilities_are_no_labels():
    with pytest.raises(ValueError, match="must be probabilities, got a value of -"):
        losses.cross_entropy(LOGITS, LOGITS)


def smoothed(epsilon=0.1):
    return (
        (1 - epsilon) * np.eye(CLASSES, dtype="f4")[LABELS] + epsilon / CLASSES
    ).astype("f4")


def test_the_label_of_a_smoothed_label_is_its_largest_entry():
    others = targets.other_classes(smoothed(), CLASSES)
    np.testing.assert_array_equal(others, np.eye(CLASSES)[LABELS] == 0)
    mixed = np.array([[0.7, 0.3, 0, 0, 0], [0.2] * 5, [0.5, 0.5, 0, 0, 0]], "f4")
    np.testing.assert_array_equal(
        targets.other_classes(mixed, CLASSES),
        [[False, False, True, True, True], [False] * 5, [False] * 2 + [True] * 3],
    )


@pytest.mark.parametrize(
    "name",
    [n for n in TARGETS if n.endswith("_others") and n != "smooth_others"],
)
def test_distillation_over_the_others_with_smoothed_labels(name):
    def loss(labels):
        return losses.distillation(LOGITS, labels, TARGETS[name](labels), 2.0)

    wanted = loss(LABELS)
    assert (np.asarray(wanted) > 0.01).all()
    np.testing.assert_allclose(loss(smoothed()), wanted, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(loss)(smoothed()), wanted, rtol=1e-5)
    np.testing.assert_allclose(
        losses.complement_entropy(LOGITS, smoothed()),
        losses.complement_entropy(LOGITS, LABELS),
        rtol=1e-6,
    )
