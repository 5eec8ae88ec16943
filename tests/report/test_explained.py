"""Images in batches: what they are and how many there are does not matter."""

import types

import numpy as np
import pytest

from introspect_jax.data.preprocess import Preprocess
from introspect_jax.report import explained


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
