"""Images in batches: what they are and how many there are does not matter."""

import dataclasses
import types

import flax.linen as nn
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from tiny import build_tiny

from introspect_jax.binding import for_pictures
from introspect_jax.config import default_config
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.errors import UserError
from introspect_jax.models import init_variables
from introspect_jax.report import explained, measures
from introspect_jax.report.explain_run import explain_run
from introspect_jax.trained import Trained


class WithoutMaps(nn.Module):
    @nn.compact
    def __call__(self, images, train):
        return nn.Dense(4)(images.mean((1, 2)))


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_batches_have_one_size_and_every_image_once(count, monkeypatch):
    monkeypatch.setattr(explained, "_BATCH_PIXELS", 4 * 2 * 3)
    net = types.SimpleNamespace(
        variables=10.0, preprocess=Preprocess((2, 3), (0.0,), (1 / 255,))
    )
    pixels = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3, 1)
    sizes = set()

    def function(scale, x, numbers):
        sizes.add(len(x))
        return {"sum": scale * x.sum((1, 2, 3)), "number": numbers}

    found = explained.in_batches(net, function, pixels, np.arange(count))
    np.testing.assert_array_equal(found["number"], np.arange(count))
    np.testing.assert_allclose(found["sum"], 10.0 * pixels.sum((1, 2, 3)), rtol=1e-6)
    assert sizes == {min(count, 4)}


@pytest.fixture(scope="module")
def net():
    model = build_tiny(4)
    params, state = jax.jit(lambda key: init_variables(model, (8, 8, 3), key))(
        jax.random.key(0)
    )
    return Trained(
        model=model,
        variables={"params": params, **state},
        preprocess=Preprocess((8, 8), (0.5,), (0.25,)),
        class_names=tuple("abcd"),
        image_shape=(8, 8, 3),
        dtype="uint8",
        explain=for_pictures(default_config()),
    )


@pytest.mark.parametrize("explanation", ["smoothgrad", "expected_gradients"])
def test_batches_change_nothing(net, explanation, monkeypatch):
    """Each image has its random numbers, and the same baselines."""
    config = ConfigDict(net.explain.to_dict())
    config.explanation = explanation
    config[explanation].num_samples = 8
    pixels = np.random.RandomState(0).randint(0, 256, (3, 8, 8, 3), np.uint8)
    labels = np.array([0, 2, 1])
    whole = explained.explain(net, pixels, labels, config)
    measured = measures.measure(net, config, pixels, labels, pixels)
    monkeypatch.setattr(explained, "_BATCH_PIXELS", 2 * 8 * 8)
    parts = explained.explain(net, pixels, labels, config)
    np.testing.assert_array_equal(parts.classes, whole.classes)
    np.testing.assert_allclose(parts.similarities, whole.similarities, atol=1e-4)
    np.testing.assert_allclose(parts.maps, whole.maps, rtol=1e-3, atol=1e-6)
    again = {
        r["metric"]: r for r in measures.measure(net, config, pixels, labels, pixels)
    }
    for row in measured:
        assert again[row["metric"]]["count"] == row["count"]
        # Their draws are those of a batch.
        if row["metric"] not in ("max-sensitivity", "random-logit similarity"):
            assert again[row["metric"]]["mean"] == pytest.approx(row["mean"], abs=1e-3)


class Scaled(WithoutMaps):
    """A network that computes its last layer."""

    def last_layer(self, variables):
        layer = variables["params"]["Dense_0"]
        return 2 * layer["kernel"], layer["bias"] + 0


def test_layers_to_randomise_are_variables(net):
    own = measures._layers(net)
    assert list(own) == ["last layer", "network"]
    assert len(own["last layer"]) == 2
    variables = {"params": {"Dense_0": {"kernel": np.ones((3, 4)), "bias": np.ones(4)}}}
    scaled = dataclasses.replace(net, model=Scaled(), variables=variables)
    assert list(measures._layers(scaled)) == ["network"]


def test_what_cannot_be_explained_is_said_before_anything_is_written(net, tmp_path):
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "one.png")
    config = ConfigDict(net.explain.to_dict())
    config.explanation = "expected_gradients"
    with pytest.raises(UserError, match="--images must give at least 2, got 1"):
        explain_run(net, config, tmp_path / "out", images=str(tmp_path))
    config.explanation = "grad_cam"
    without = dataclasses.replace(net, model=WithoutMaps())
    with pytest.raises(UserError, match="has no 'maps'"):
        explain_run(without, config, tmp_path / "out", images=str(tmp_path))
    assert not (tmp_path / "out").exists()
