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
