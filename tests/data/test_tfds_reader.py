"""On a data set that is written here, in the format that TFDS prepares."""

import sys

import numpy as np
import pytest
from prepared import write

from introspect_jax import data
from introspect_jax.config import default_config
from introspect_jax.errors import UserError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """`shapes/1.0.0`: train 40, test 12, 3 classes, images of 6x6 pixels."""
    root = tmp_path_factory.mktemp("tfds")
    images = np.random.RandomState(0).randint(0, 256, (52, 6, 6, 3), dtype=np.uint8)
    labels = np.arange(52) % 3
    splits = {"train": (images[:40], labels[:40]), "test": (images[40:], labels[40:])}
    write(root, "shapes", ["circle", "line", "square"], splits)
    return root, images


@pytest.fixture
def config(prepared):
    config = default_config().data
    config.name, config.data_dir = "shapes", str(prepared[0])
    return config


def test_pixels_labels_and_splits(prepared, config):
    dataset = data.load(config)
    assert dataset.class_names == ("circle", "line", "square")
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [
        36,
        4,
        12,
    ]
    images, labels = dataset.test.take(np.arange(12))
    np.testing.assert_array_equal(images, prepared[1][40:])
    np.testing.assert_array_equal(labels, np.arange(40, 52) % 3)
    assert "tensorflow" not in sys.modules


def test_resized_on_reading(config):
    config.load_size = 3
    dataset = data.load(config)
    assert dataset.image_shape == (3, 3, 3)
    assert dataset.train.take(np.arange(5))[0].shape == (5, 3, 3, 3)


def test_part_of_a_split(config):
    config.train_split = "train[:50%]"
    assert len(data.load(config).train) == 18


def test_missing_split(config):
    config.test_split = "validation"
    with pytest.raises(UserError, match="it has: train, test"):
        data.load(config)


def test_labels_that_are_not_there(tmp_path, config):
    images = np.zeros((8, 6, 6, 3), np.uint8)
    splits = {"train": (images, np.arange(8) % 2), "test": (images, np.full(8, -1))}
    write(tmp_path, "blind", ["no", "yes"], splits)
    config.name, config.data_dir = "blind", str(tmp_path)
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.1, got -1"):
        data.load(config).test.take(np.arange(8))


def test_images_of_many_sizes_need_a_size(tmp_path, config):
    images = np.zeros((8, 6, 6, 3), np.uint8)
    splits = {"train": (images, np.arange(8) % 2), "test": (images, np.arange(8) % 2)}
    write(tmp_path, "many", ["no", "yes"], splits)
    spec = tmp_path / "many" / "1.0.0" / "features.json"
    spec.write_text(spec.read_text().replace('["6", "6", "3"]', '["-1", "-1", "3"]'))
    config.name, config.data_dir = "many", str(tmp_path)
    with pytest.raises(UserError, match=r"set data\.load_size"):
        data.load(config)
    config.load_size = 4
    assert data.load(config).test.take(np.arange(2))[0].shape[1:] == (
        4,
        4,
        3,
    )
