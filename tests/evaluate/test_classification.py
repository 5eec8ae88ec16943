import jax.numpy as jnp
import numpy as np

from introspect_jax.evaluate import (
    expected_calibration_error,
    per_example,
    summarize,
)


def test_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.3, 0.4]]))
    found = per_example(logits, jnp.array([0, 2, 1]))
    np.testing.assert_array_equal(found["rank"], [0, 1, 2])  # a tie counts against it
    np.testing.assert_allclose(found["nll"], -np.log([0.7, 0.4, 0.3]), rtol=1e-5)
    np.testing.assert_allclose(found["confidence"], [0.7, 0.5, 0.4], rtol=1e-5)
    summary = summarize({name: np.asarray(v) for name, v in found.items()})
    assert summary["top1"] == 1 / 3
    assert summary["top5"] == 1.0
    np.testing.assert_allclose(summary["nll"], -np.log([0.7, 0.4, 0.3]).mean())
    np.testing.assert_allclose(summary["ece"], (0.3 + 0.5 + 0.4) / 3, rtol=1e-5)


def test_top5_against_sorting():
    generator = np.random.RandomState(0)
    logits, labels = generator.normal(size=(200, 12)), generator.randint(12, size=200)
    rank = np.asarray(per_example(jnp.asarray(logits), jnp.asarray(labels))["rank"])
    best = np.argsort(-logits, axis=-1)[:, :5]
    np.testing.assert_array_equal(rank < 5, (best == labels[:, None]).any(-1))


def test_equal_or_broken_outputs_are_never_right():
    for value in (0.0, np.nan):
        found = per_example(jnp.full((2, 3), value), jnp.array([0, 2]))
        assert (np.asarray(found["rank"]) > 0).all()


def test_calibration_error_by_its_definition():
    generator = np.random.RandomState(1)
    confidence = generator.uniform(0.1, 1.0, size=500)
    confidence[:2] = [1.0, 1 / 15]  # on the edges of bins
    correct = generator.uniform(size=500) < confidence**2
    wanted = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            gap = correct[inside].mean() - confidence[inside].mean()
            wanted += inside.mean() * abs(gap)
    np.testing.assert_allclose(
        expected_calibration_error(confidence, correct), wanted, rtol=1e-12
    )
    assert expected_calibration_error(np.ones(4), np.ones(4, bool)) == 0
