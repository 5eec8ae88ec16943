"""A data set of one's own, for the trainer: arrays in a `.npz` file.

Images are uint8 pixels, or floats in units of their own, by which `data.mean` and
`data.std` are given then. From this folder, in which `digits.npz` lies:

    python ../../launch/main.py --config=../../configs/digits.py \
        --config.data.name=my_data:load --config.data.data_dir=. \
        --config.data.options.file=digits.npz

The folder is `data.data_dir`, which may be another one tomorrow; options belong to the
run. Images in memory, as these, are known by their bytes.
"""

import os

import numpy as np

from introspect_jax.data.sources import Dataset, array_source, cut


def load(config, file):
    """Arrays `train_images [n, h, w, c]`, `train_labels [n]`, and those of the test."""
    with np.load(os.path.join(config.data_dir, file)) as arrays:
        train = array_source(arrays["train_images"], arrays["train_labels"])
        test = array_source(arrays["test_images"], arrays["test_labels"])
        labels, shape = arrays["train_labels"], arrays["train_images"].shape[1:]
    kept, held_out = cut(len(train), config.validation_fraction, labels)
    return Dataset(
        train=train.subset(kept),
        validation=train.subset(held_out),
        test=test,
        class_names=tuple(str(label) for label in range(labels.max() + 1)),
        image_shape=shape,
    )
