"""A data set of one's own, for the trainer: arrays in a `.npz` file.

Images are uint8 pixels, or floats in units of their own, by which `data.mean` and
`data.std` are given then. From this folder:

    python ../../launch/main.py --config=../../configs/digits.py \
        --config.data.name=my_data:load --config.data.options.path=digits.npz
"""

import numpy as np

from introspect_jax.data.sources import Dataset, array_source, cut


def load(config, path):
    """Arrays `train_images [n, h, w, c]`, `train_labels [n]`, and those of the test."""
    with np.load(path) as file:
        train = array_source(file["train_images"], file["train_labels"])
        test = array_source(file["test_images"], file["test_labels"])
        labels, shape = file["train_labels"], file["train_images"].shape[1:]
    kept, held_out = cut(len(train), config.validation_fraction, labels)
    return Dataset(
        train=train.subset(kept),
        validation=train.subset(held_out),
        test=test,
        class_names=tuple(str(label) for label in range(labels.max() + 1)),
        image_shape=shape,
    )
