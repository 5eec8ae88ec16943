"""Parts from outside with a mistake each, for `config_cases.LISTED`."""

import dataclasses

import flax.linen as nn
import numpy as np
from flax import nnx
from tiny import build_tiny

from introspect_jax.data.sources import Dataset, Source, array_source
from introspect_jax.methods import standard

NOT_CALLABLE = 3


def returns_text(*given, weight_decay=None, mask=None) -> str:
    """As network, data set, method or optimizer; it takes no options."""
    return "text"


def needs_size(*given, size, **options):
    """The same, with an option that has no default."""
    raise AssertionError("called without its option")


# Networks.


def takes_width(num_classes: int, width: int = 4) -> nn.Module:
    """Nothing is wrong with it."""
    return build_tiny(num_classes)


def another_head(num_classes: int) -> nn.Module:
    return build_tiny(num_classes + 1)


class _WithoutTrain(nn.Module):
    def __call__(self, images):
        return images


def without_train(num_classes: int) -> nn.Module:
    return _WithoutTrain()


def linen_with_rngs(num_classes: int, rngs: nnx.Rngs) -> nn.Module:
    return build_tiny(num_classes)


# Methods.


def carries_unknown(context):
    """Its state has an entry of which it does not say how it is combined."""
    method = standard.make(standard.default_config(), context)

    def init(key):
        return *method.init(key)[:2], {"memory": np.zeros(3, np.float32)}

    return dataclasses.replace(method, init=init)


# Data sets: 64 images of 4x4 in two classes, in each split.


def _arrays() -> tuple[np.ndarray, np.ndarray]:
    labels = np.arange(64) % 2
    return np.repeat(labels, 16).reshape(64, 4, 4, 1).astype(np.uint8), labels


def _dataset(train=None, **changes) -> Dataset:
    good = array_source(*_arrays())
    names, shape = ("a", "b"), (4, 4, 1)
    train = good if train is None else train
    dataset = Dataset(train, good.subset(np.arange(0)), good, names, shape)
    return dataclasses.replace(dataset, **changes)


def _with_images(dtype, change=lambda images: images) -> Dataset:
    images, labels = _arrays()
    return _dataset(array_source(change(images.astype(dtype)), labels))


def _with_labels(change) -> Dataset:
    images, labels = _arrays()
    return _dataset(array_source(images, change(labels)))


def _with_reader(change, dtype=np.uint8) -> Dataset:
    """Of a source that reads by itself."""
    images, labels = _arrays()

    def read(numbers):
        return change(images[numbers], labels[numbers].astype(np.int32))

    return _dataset(Source(read, np.arange(64), dtype=dtype))


def good(config) -> Dataset:
    return _dataset()


def large_pixels(config) -> Dataset:
    return _with_images(np.int32, lambda images: images + 256)


def text_pixels(config) -> Dataset:
    return _with_images(str)


def nan_pixels(config) -> Dataset:
    return _with_images(np.float32, lambda images: images * np.nan)


def flat_images(config) -> Dataset:
    return _with_images(np.uint8, lambda images: images.reshape(64, 16))


def another_dtype(config) -> Dataset:
    return _with_reader(lambda images, labels: (images / 255, labels))


def odd_dtype(config) -> Dataset:
    return _with_reader(
        lambda images, labels: (images.astype(np.int64), labels), np.int64
    )


def two_dtypes(config) -> Dataset:
    images, labels = _arrays()
    return _dataset(test=array_source(images.astype(np.float32), labels))


def another_shape(config) -> Dataset:
    return _dataset(image_shape=(8, 8, 1))


def one_class(config) -> Dataset:
    return _dataset(class_names=("a",))


def no_images(config) -> Dataset:
    return _dataset(array_source(*(array[:0] for array in _arrays())))


def float_labels(config) -> Dataset:
    return _with_labels(lambda labels: labels / 2)


def columns_of_labels(config) -> Dataset:
    return _with_labels(lambda labels: labels[:, None])


def too_few_labels(config) -> Dataset:
    return _with_labels(lambda labels: labels[1:])


def no_labels(config) -> Dataset:
    """As test splits have them that are not published."""
    return _with_labels(lambda labels: labels * 0 - 1)


def read_float_labels(config) -> Dataset:
    return _with_reader(lambda images, labels: (images, labels / 2))


def read_columns(config) -> Dataset:
    return _with_reader(lambda images, labels: (images, labels[:, None]))


def read_too_few(config) -> Dataset:
    return _with_reader(lambda images, labels: (images, labels[1:]))


def read_text(config) -> Dataset:
    return _with_reader(lambda images, labels: ("images", labels))


def one_wrong_label(config) -> Dataset:
    """The last of the training split."""
    return _with_labels(lambda labels: np.where(np.arange(64) == 63, 2, labels))


def wrong_test_labels(config) -> Dataset:
    images, labels = _arrays()
    return _dataset(test=array_source(images, labels + 1))
