"""`examples/`: short training loops that learn, and explanations of a user's own."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import (
    Cosine,
    Exact,
    GradientSum,
    LastLayer,
    Map,
    Probes,
    Top,
    metrics,
)
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.problem import make_problem

EXAMPLES = ROOT / "examples"
# The package that the example needs beyond this project's own requirements.
PACKAGES = {
    "plain_jax": None,
    "flax_linen": None,
    "flax_nnx": None,
    "equinox_loop": "equinox",
    "haiku_loop": "haiku",
}
OWN = "own_explanation"
KEY = jax.random.key(1)


def _load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*PACKAGES, OWN}


@pytest.mark.parametrize("name", [*PACKAGES, OWN])
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    "name",
    [
        name if name == "plain_jax" else pytest.param(name, marks=pytest.mark.slow)
        for name in PACKAGES
    ],
)
def test_an_example_learns(name):
    if PACKAGES[name]:
        pytest.importorskip(PACKAGES[name])
    assert _load(name).main() >= 0.95


@pytest.fixture(scope="module")
def own():
    """The module of the example, and what its `main` returns."""
    module = _load(OWN)
    return module, *module.main()


def _own_explanations(own):
    module = own[0]
    return module.PathGradient(num_steps=4), module.AbsoluteSmoothGrad(num_samples=4)


def _own_maps(own, explanation, cotangents):
    _, logits_fn, x, _, _ = own

    @jax.jit
    def maps(x, cotangents):
        return explain_fn(logits_fn, x, cotangents, explanation, key=KEY)

    return maps(x, cotangents)


def test_own_explanations_are_measured(own):
    linear, nonlinear = own[-1]
    for scores in (linear, nonlinear):
        assert set(scores) == {"deletion", "projection", "cosine"}
        assert all(0 <= score <= 1 for score in scores.values())
    # Signed maps rank the pixels that speak for the label first; absolute ones do not.
    assert linear["deletion"] < 0.2 < nonlinear["deletion"]


def test_own_linear_explanation_is_linear_and_the_other_is_not(own):
    x = own[2]
    a, b = np.random.default_rng(0).normal(size=(2, len(x), 10)).astype("float32")

    def deviation(explanation):
        of_sum = _own_maps(own, explanation, a - 2 * b)
        sums = _own_maps(own, explanation, a) - 2 * _own_maps(own, explanation, b)
        return jnp.abs(of_sum - sums).max() / jnp.abs(of_sum).max()

    linear, nonlinear = _own_explanations(own)
    assert linear.linear
    assert deviation(linear) < 1e-5
    assert not nonlinear.linear
    assert deviation(nonlinear) > 0.1


def test_own_path_gradient_is_complete(own):
    """Times `x - b` it is integrated gradients, whose maps sum to `f(x) - f(b)`."""
    module, logits_fn, x, y, _ = own
    blurred = make_baseline("blur", make_problem(logits_fn, x))
    maps = (x - blurred) * _own_maps(own, module.PathGradient(num_steps=64), y)
    error = metrics.completeness_error(logits_fn, x, y, maps, baseline=blurred)
    assert jnp.abs(error).max() < 0.02 * jnp.abs(logits_fn(x)).max()


@pytest.mark.parametrize("options", [{}, {"chunk_size": 3, "class_chunk_size": 4}])
def test_own_explanations_compare_as_their_maps_do(own, options, monkeypatch):
    _, logits_fn, x, y, _ = own
    every_class = np.broadcast_to(np.arange(10), (len(x), 10))
    transposes = []
    for cls in (Map, GradientSum):
        transpose = cls.transpose
        monkeypatch.setattr(
            cls,
            "transpose",
            lambda self, maps, of=transpose: transposes.append(1) or of(self, maps),
        )
    for explanation in _own_explanations(own):
        maps = np.asarray(_own_maps(own, explanation, every_class), np.float64)
        maps = maps.reshape(len(x), 10, -1)
        inner = np.einsum("bkp,bp->bk", maps, maps[np.arange(len(x)), y])
        squares = (maps**2).sum(-1)
        own_square = np.take_along_axis(squares, y[:, None], axis=1)
        for similarity, wanted in (
            ("projection", inner / own_square),
            ("cosine", inner / np.sqrt(squares * own_square)),
        ):
            transposes.clear()
            compare = functools.partial(
                class_similarity, logits_fn, key=KEY, similarity=similarity, **options
            )
            values = jax.jit(compare)(x, y, explanation)
            np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)
            # One map and its transpose, or the maps of all classes.
            cheap = explanation.linear and similarity == "projection"
            assert bool(transposes) == cheap


def test_own_explanations_work_with_every_norm(own):
    _, features_fn, x, y, _ = own
    kernel = np.random.default_rng(0).normal(size=(10, 6)).astype("float32")
    y = y % 6

    def cosine(explanation, norms):
        compare = functools.partial(
            class_similarity, lambda x: features_fn(x) @ kernel, key=KEY, chunk_size=2
        )
        return jax.jit(compare)(x, y, explanation, Cosine(norms))

    linear, nonlinear = _own_explanations(own)
    wanted = cosine(linear, Exact())
    for norms in (Top(6), LastLayer(features_fn, kernel)):
        np.testing.assert_allclose(cosine(linear, norms), wanted, atol=1e-4)
    # Estimated: the standard deviation of a norm is about sqrt(2 / 128) / 2 = 6 %.
    estimated = cosine(linear, Probes(128))
    assert np.abs(estimated / wanted - 1).mean() < 0.1
    # All classes are explained anyway, whatever the norms.
    np.testing.assert_array_equal(
        cosine(nonlinear, Probes(2)), cosine(nonlinear, Exact())
    )


def test_own_explanations_work_with_the_metrics(own):
    module, logits_fn, x, y, _ = own
    for explanation in _own_explanations(own):
        area = metrics.deletion(logits_fn, x, y, _own_maps(own, explanation, y))
        assert ((area > 0) & (area < 1)).all()
        sensitive = functools.partial(
            metrics.max_sensitivity, logits_fn, key=KEY, chunk_size=2, num_samples=2
        )
        change = jax.jit(sensitive)(x, y, explanation, noise_key=KEY, radius=0.5)
        assert ((change >= 0) & (change < 2)).all()
        assert change.mean() > 0.01
    with pytest.raises(ValueError, match="give it key="):
        explain_fn(logits_fn, x, y, module.AbsoluteSmoothGrad())
