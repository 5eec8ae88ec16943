import numpy as np
import pytest

from introspect_jax.config import default_config
from introspect_jax.data.preprocess import center_crop, make_preprocess, normalize
from introspect_jax.errors import UserError


def test_normalize_and_center_crop():
    images = np.array([0, 255], np.uint8).reshape(1, 2, 1, 1)
    np.testing.assert_allclose(normalize(images, (0.5,), (0.25,)).ravel(), [-2.0, 2.0])
    image = np.arange(36).reshape(1, 6, 6, 1)
    np.testing.assert_array_equal(center_crop(image, (2, 2)).ravel(), [14, 15, 20, 21])


def test_inputs_are_both():
    config = default_config().data
    config.image_size, config.mean, config.std = 2, (0.5,), (0.25,)
    pixels = np.zeros((3, 6, 6, 1), np.uint8)
    pixels[:, 2:4, 2:4] = 255
    found = make_preprocess(config, (6, 6, 1))(pixels)
    np.testing.assert_allclose(found, np.full((3, 2, 2, 1), 2.0))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"image_size": 9}, "larger than the images"),
        ({"mean": (0.1, 0.2)}, "2 values for 3 channels"),
        ({"std": (0.0,)}, "above 0"),
    ],
)
def test_bad_options(changes, says):
    config = default_config().data
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=says):
        make_preprocess(config, (8, 8, 3))
