"""What similarities share with soft responses, against scipy and by construction."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from introspect_jax.explain import agreement

pytestmark = pytest.mark.optimised


def test_spearman_against_scipy():
    generator = np.random.RandomState(0)
    a = generator.randint(0, 6, size=(20, 15)).astype(float)  # with ties
    b = a + generator.normal(size=(20, 15)).round()
    wanted = [stats.spearmanr(x, y).statistic for x, y in zip(a, b, strict=True)]
    found = jax.jit(agreement.spearman)(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isnan(agreement.spearman(jnp.ones((1, 4)), jnp.arange(4.0)[None]))


def test_rank_agreement_by_definition():
    generator = np.random.RandomState(1)
    labels = np.repeat(np.arange(4), 6)
    similarities = generator.normal(size=(24, 5)).astype(np.float32)
    responses = similarities + generator.normal(size=(24, 5)).astype(np.float32)
    found = agreement.rank_agreement(
        jnp.asarray(similarities), jnp.asarray(responses), jnp.asarray(labels)
    )
    for i, label in enumerate(labels):
        kept = np.arange(5) != label
        wanted = stats.spearmanr(similarities[i, kept], responses[i, kept]).statistic
        np.testing.assert_allclose(found["example"][i], wanted, atol=1e-5)
    for label in range(4):
        kept, rows = np.arange(5) != label, labels == label
        means = (v[rows].mean(0)[kept] for v in (similarities, responses))
        wanted = stats.spearmanr(*means).statistic
        np.testing.assert_allclose(found["class"][label], wanted, atol=1e-5)
    assert np.isnan(found["class"][4])  # no examples


@pytest.fixture
def responses():
    """What a class says, what its example adds, and noise: `(shared, own, labels)`."""
    generator = np.random.RandomState(2)
    labels = jnp.asarray(np.repeat(np.arange(6), 50))
    shared = jnp.asarray(generator.normal(size=(6, 6)))[labels]
    own = jnp.asarray(generator.normal(size=(300, 6)))
    return shared, own, labels


def test_instance_agreement_sees_no_class_means(responses):
    shared, own, labels = responses
    of_class = agreement.rank_agreement(shared, 3 * shared + own, labels)
    assert np.nanmean(of_class["class"]) > 0.9
    assert np.isnan(of_class["instance"]).all()
    of_both = agreement.rank_agreement(own - 9 * shared, 3 * shared + own, labels)
    assert np.nanmean(of_both["class"]) < -0.9
    assert np.nanmean(of_both["instance"]) == pytest.approx(1.0)


def test_agreement_beyond_what_is_known(responses):
    shared, own, labels = responses
    generator = np.random.RandomState(3)
    secret, noise = (jnp.asarray(generator.normal(size=own.shape)) for _ in range(2))
    teacher = shared + own + secret
    known = shared + own
    mirror = agreement.agreement_beyond(own + noise, teacher, known, labels)
    assert abs(np.nanmean(mirror)) < 0.08
    knows_more = agreement.agreement_beyond(secret, teacher, known, labels)
    assert np.nanmean(knows_more) > 0.5
    assert np.isnan(agreement.agreement_beyond(known, teacher, known, labels)).all()


def test_agreement_beyond_is_the_partial_correlation(responses):
    _, own, labels = responses
    generator = np.random.RandomState(4)
    values = [own + generator.normal(size=own.shape) for _ in range(3)]
    found = agreement.agreement_beyond(*map(jnp.asarray, values), labels)
    row, label = 70, int(labels[70])
    kept = np.arange(6) != label
    means = [v[np.asarray(labels) == label].mean(0) for v in values]
    ranks = [
        stats.rankdata((v[row] - m)[kept]) for v, m in zip(values, means, strict=True)
    ]
    # By regression: what the third leaves of the first two.
    design = np.stack([ranks[2], np.ones(5)], 1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    wanted = np.corrcoef(*left)[0, 1]
    np.testing.assert_allclose(found[row], wanted, atol=1e-5)


def test_partial_spearman_by_regression_on_ranks():
    """Of none, one and several known arrays, with ties."""
    generator = np.random.RandomState(5)
    shared = generator.normal(size=(3, 40))
    arrays = [(shared + generator.normal(size=(3, 40))).round(1) for _ in range(4)]
    for count in (2, 3, 4):
        found = agreement.partial_spearman(*map(jnp.asarray, arrays[:count]))
        for row in range(3):
            ranks = [stats.rankdata(values[row]) for values in arrays[:count]]
            design = np.stack([*ranks[2:], np.ones(40)], 1)
            left = [
                r - design @ np.linalg.lstsq(design, r, rcond=None)[0]
                for r in ranks[:2]
            ]
            wanted = np.corrcoef(*left)[0, 1]
            np.testing.assert_allclose(found[row], wanted, atol=1e-5)


def test_partial_spearman_of_known_ranks():
    a, b = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[2.0, 1.0, 4.0, 3.0]])
    assert np.isnan(agreement.partial_spearman(a, b, -a))
    unknown = jnp.array([[1.0, 2.0, jnp.nan, 4.0]])
    assert np.isnan(agreement.partial_spearman(a, b, unknown))


def test_arrays_that_add_nothing_control_for_nothing():
    a, b = jnp.array([[1.0, 2.0, 3.0, 4.0]]), jnp.array([[2.0, 1.0, 4.0, 3.0]])
    known = jnp.array([[1.0, 2.0, 4.0, 3.0]])
    once = agreement.partial_spearman(a, b, known)
    np.testing.assert_allclose(once, -1 / 9, atol=1e-6)  # (0.6 - 0.8^2) / (1 - 0.8^2)
    twice = agreement.partial_spearman(a, b, known, 2 * known)
    np.testing.assert_allclose(twice, once, atol=1e-6)
    constant = agreement.partial_spearman(a, b, jnp.ones((1, 4)))
    np.testing.assert_allclose(constant, 0.6, atol=1e-6)


@pytest.mark.parametrize("part", ["example", "class"])
def test_agreement_beyond_within_examples_and_of_class_means(part):
    """Weight rows, the same for every example of a class, can be controlled for."""
    generator = np.random.RandomState(6)
    labels = np.repeat(np.arange(2), 4)
    rows = generator.normal(size=(9, 9))[labels]
    noise = generator.normal(size=(2, 8, 9))
    arrays = [rows + noise[0], rows + noise[1], rows]
    found = agreement.agreement_beyond(
        *map(jnp.asarray, arrays), jnp.asarray(labels), part
    )
    for label, index in ((0, 2), (1, 5)):
        kept = np.arange(9) != label
        if part == "class":
            values = [v[labels == label].mean(0)[kept] for v in arrays]
            index = label
        else:
            values = [v[index, kept] for v in arrays]
        r = stats.spearmanr(np.stack(values), axis=1).statistic
        wanted = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt(
            (1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2)
        )
        np.testing.assert_allclose(found[index], wanted, atol=1e-5)
    if part == "class":
        assert found.shape == (9,)
        assert np.isnan(found[2:]).all()


def test_an_unknown_part():
    ones = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="part must be one of example, class"):
        agreement.agreement_beyond(ones, ones, ones, jnp.array([0, 1]), "all")
