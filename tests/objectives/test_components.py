"""Components and targets, by the identities that define them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from introspect_jax.objectives import components, losses, targets
from introspect_jax.objectives.components import COMPONENTS, component
from introspect_jax.objectives.targets import SoftTarget, teacher_target

pytestmark = pytest.mark.usefixtures("x64")
N, K = 6, 5
LABELS = np.array([0, 2, 1, 4, 4, 3])
RANDOM = np.random.RandomState(0)
LOGITS, TEACHER = RANDOM.normal(size=(N, K)) * 2, RANDOM.normal(size=(N, K)) * 3
MEANS = RANDOM.dirichlet(np.ones(K), K)
KEYS = jax.random.split(jax.random.key(0), N)


def part(name, target=None, keys=KEYS):
    target = teacher_target(TEACHER, 2.0) if target is None else target
    return component(target, LABELS, name, keys=keys, class_means=jnp.asarray(MEANS))


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_is_a_distribution_over_its_support(name):
    found = part(name)
    np.testing.assert_allclose(found.probs.sum(-1), 1, rtol=1e-12)
    assert (found.probs >= 0).all()
    own = found.probs[np.arange(N), LABELS]
    if found.support == "others":
        np.testing.assert_array_equal(own, 0)
    assert not found.degenerate.any()


@pytest.mark.parametrize("name", ["permuted", "dkpp"])
def test_a_permutation_keeps_the_multiset(name):
    whole, found = teacher_target(TEACHER, 2.0).probs, part(name).probs
    np.testing.assert_array_equal(np.sort(found, -1), np.sort(whole, -1))
    assert (np.asarray(found) != np.asarray(whole)).any(-1).sum() >= N - 1
    fixed = LABELS if name == "permuted" else np.argmax(whole, -1)
    np.testing.assert_array_equal(
        found[np.arange(N), fixed], whole[np.arange(N), fixed]
    )


def test_dkpp_of_the_others_moves_nothing_onto_the_label():
    target = part("others")
    found = part("dkpp", target)
    np.testing.assert_array_equal(found.probs[np.arange(N), LABELS], 0)
    np.testing.assert_array_equal(
        np.argmax(found.probs, -1), np.argmax(target.probs, -1)
    )


def test_a_permutation_has_no_favourites():
    """Every other class is as likely to get what the first of them had."""
    count = 4000
    probs = jnp.tile(jnp.array([0.5, 0.4, 0.1, 0.0, 0.0]), (count, 1))
    keys = jax.random.split(jax.random.key(1), count)
    movable = jnp.arange(5) > 0
    moved = components.permute(probs, jnp.tile(movable, (count, 1)), keys)
    places = np.bincount(np.argmax(moved[:, 1:], -1), minlength=4) / count
    np.testing.assert_allclose(places, 1 / 4, atol=0.03)  # four standard deviations


def test_fresh_and_fixed_permutations():
    def keys(kind, step, indices):
        made = components.permutation_keys(
            kind,
            step_key=jax.random.key(step),
            fixed_key=jax.random.key(99),
            indices=jnp.asarray(indices),
            labels=LABELS,
        )
        return np.asarray(jax.random.key_data(made))

    first = keys("fresh", 0, np.arange(N))
    assert len(np.unique(first, axis=0)) == N
    assert (first != keys("fresh", 1, np.arange(N))).any(-1).all()
    # An example has its own, wherever in the batch it is.
    np.testing.assert_array_equal(keys("fresh", 0, np.arange(N)[::-1])[::-1], first)
    fixed = keys("fixed", 0, np.arange(N))
    np.testing.assert_array_equal(fixed, keys("fixed", 1, np.arange(N) + 7))
    np.testing.assert_array_equal(fixed[3], fixed[4])  # both of class 4
    assert len(np.unique(fixed, axis=0)) == len(set(LABELS))
    with pytest.raises(ValueError, match="there are: fresh, fixed"):
        keys("new", 0, np.arange(N))


def test_kd_is_tckd_and_nckd():
    """KL = KL of (label, rest) + (1 - p_y) KL among the others: Zhao et al. 2022."""
    temperature = 3.0
    target = teacher_target(TEACHER, temperature)
    whole = losses.distillation(LOGITS, LABELS, target, temperature)
    nckd = losses.distillation(LOGITS, LABELS, part("others", target), temperature)
    own = np.asarray(target.probs)[np.arange(N), LABELS]
    mine = np.asarray(jax.nn.softmax(LOGITS / temperature))[np.arange(N), LABELS]
    tckd = own * np.log(own / mine) + (1 - own) * np.log((1 - own) / (1 - mine))
    np.testing.assert_allclose(whole, 9 * tckd + (1 - own) * nckd, rtol=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_divergences_vanish_at_equality(temperature):
    for name in COMPONENTS:
        if name == "cwtm":
            continue
        target = part(name, teacher_target(LOGITS, temperature))
        same = temperature * jnp.log(jnp.maximum(target.probs, 1e-300))
        found = losses.distillation(same, LABELS, target, temperature)
        np.testing.assert_allclose(found, 0, atol=1e-12, err_msg=name)
    mutual = losses.mutual_divergence(jnp.stack([LOGITS] * 3), temperature)
    np.testing.assert_allclose(mutual, 0, atol=1e-12)


def test_confidence_weights():
    probs = teacher_target(TEACHER, 1.0).probs
    weights = components.confidence_weights(probs)
    np.testing.assert_allclose(weights.mean(), 1, rtol=1e-12)
    np.testing.assert_array_equal(np.argsort(weights), np.argsort(probs.max(-1)))


def test_class_means_run():
    probs = RANDOM.dirichlet(np.ones(K), N)
    start = jnp.zeros((K, K))
    first = components.update_class_means(start, probs, LABELS, 0.9)
    np.testing.assert_allclose(first[4], probs[3:5].mean(0))
    np.testing.assert_allclose(first.sum(-1), 1)
    second = components.update_class_means(first, probs[:1], LABELS[:1], 0.9)
    np.testing.assert_array_equal(second, first.at[0].set(second[0]))
    np.testing.assert_allclose(second[0], 0.9 * first[0] + 0.1 * probs[0])


def test_the_class_average_of_mixed_labels_stays_among_the_others():
    labels = np.array([[0.7, 0.3, 0, 0, 0], [0.2] * 5])
    target = component(teacher_target(TEACHER[:2], 2.0), labels, "others")
    found = component(target, labels, "class_average", class_means=jnp.asarray(MEANS))
    rest = (0.7 * MEANS[0] + 0.3 * MEANS[1])[2:]
    np.testing.assert_allclose(found.probs[0, 2:], rest / rest.sum(), rtol=1e-12)
    np.testing.assert_array_equal(found.probs[0, :2], 0)
    np.testing.assert_array_equal(found.degenerate, [False, True])
    divergence = losses.distillation(LOGITS[:2], labels, found, 2.0)
    assert divergence[0] > 0
    assert divergence[1] == 0


def test_a_share_of_a_class_moves_its_mean_by_its_share():
    means = jnp.eye(2)
    labels = jnp.array([[0.9999, 0.0001]])
    found = components.update_class_means(means, jnp.array([[1.0, 0.0]]), labels, 0.9)
    np.testing.assert_allclose(found[1], [0, 1], atol=2e-5)


def test_soft_labels():
    """All classes with mass are true ones; where none is left, that is said."""
    labels = np.array([[0.7, 0.3, 0, 0, 0], [0.2] * 5])
    target = teacher_target(TEACHER[:2], 2.0)
    moved = component(target, labels, "permuted", keys=KEYS[:2]).probs
    np.testing.assert_array_equal(moved[0, :2], target.probs[0, :2])
    np.testing.assert_array_equal(moved[1], target.probs[1])
    rest = component(target, labels, "others")
    np.testing.assert_array_equal(rest.degenerate, [False, True])
    np.testing.assert_array_equal(rest.probs[0, :2], 0)
    found = component(target, labels, "ground_truth").probs
    np.testing.assert_allclose(found[0, 2:], found[0, 2])
    even = targets.uniform_others(labels, K)
    np.testing.assert_array_equal(even.degenerate, [False, True])


def test_a_teacher_that_is_certain_says_nothing_of_the_others():
    probs = jnp.eye(K)[LABELS]
    found = part("others", SoftTarget(probs, jnp.zeros(N, bool), "all"))
    assert found.degenerate.all()
    np.testing.assert_allclose(found.probs, (1 - np.eye(K)[LABELS]) / (K - 1))


def test_entropy_matching_from_sure_to_unsure():
    wanted = jnp.array([0.0, 0.1, 0.5, 1.0, 1.5, np.log(K)])
    found = targets.smooth_to_entropy(LABELS, K, wanted)
    np.testing.assert_allclose(losses.entropy(found.probs), wanted, atol=1e-7)
    np.testing.assert_allclose(found.probs.sum(-1), 1, rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("permuted", {"keys": None}, "needs keys"),
        ("ground_truth", {"target": "others"}, "support 'all'"),
        ("otters", {}, "did you mean 'others'"),
    ],
)
def test_what_is_missing(name, options, says):
    if "target" in options:
        options["target"] = part("others")
    with pytest.raises(ValueError, match=says):
        part(name, **options)


def test_what_two_classes_do_not_have():
    target = teacher_target(TEACHER[:, :2], 1.0)
    for name in ("others", "uniform"):
        with pytest.raises(ValueError, match="at least 3 classes"):
            component(target, LABELS % 2, name)
    with pytest.raises(ValueError, match="class_means"):
        component(target, LABELS % 2, "class_average")
    with pytest.raises(ValueError, match="at least two peers"):
        losses.mutual_divergence(jnp.asarray(LOGITS)[None])
    with pytest.raises(ValueError, match="there are: paper, released"):
        targets.virtual_teacher(LABELS, K, form="other")


def test_gradients():
    @jax.jit
    def everything(z):
        soft = [
            components.component_loss(z, LABELS, part(name), name, 2.0)
            for name in COMPONENTS
        ]
        mutual = losses.mutual_divergence(jnp.stack([z, jnp.asarray(TEACHER)]))[0]
        penalty = losses.confidence_penalty(z)
        return jnp.stack([*soft, mutual, penalty, losses.complement_entropy(z, LABELS)])

    check_grads(everything, (jnp.asarray(LOGITS),), order=1, modes=["rev"])


def test_the_scale_depends_on_neither_batch_nor_unlikely_classes():
    """A thousand classes more that nobody believes in, or half of the examples."""

    def values(z, teacher, labels):
        target = teacher_target(teacher, 2.0)
        found = [
            losses.cross_entropy(z, labels),
            losses.confidence_penalty(z),
            losses.complement_entropy(z, labels),
            losses.distillation(z, labels, target, 2.0),
            losses.distillation(z, labels, component(target, labels, "others"), 2.0),
            losses.mutual_divergence(jnp.stack([z, teacher]))[0],
        ]
        return np.array(found)

    def wide(z):
        return jnp.concatenate([z, np.full((len(z), 1000), -300.0)], axis=1)

    wanted = values(jnp.asarray(LOGITS), jnp.asarray(TEACHER), LABELS)
    np.testing.assert_allclose(
        values(wide(LOGITS), wide(TEACHER), LABELS), wanted, rtol=1e-9, atol=1e-12
    )
    half = values(jnp.asarray(LOGITS[:3]), jnp.asarray(TEACHER[:3]), LABELS[:3])
    np.testing.assert_allclose(half, wanted[:, :3], rtol=1e-12)
