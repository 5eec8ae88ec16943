"""Variants of a data set: fewer examples or wrong labels."""

import dataclasses

import numpy as np

from introspect_jax.data.sources import SPLIT_SEED, Dataset, Source
from introspect_jax.errors import UserError

_NOISE_SEED = 1


def with_fewer(dataset: Dataset, config) -> Dataset:
    """Keeps `train_examples` of the training split, the same for all runs."""
    wanted, there = config.train_examples, len(dataset.train)
    if not wanted:
        return dataset
    if wanted > there:
        raise UserError(
            f"data.train_examples is {wanted}, more than the {there} training examples "
            f"of {config.name!r} without its validation split"
        )
    chosen = np.random.RandomState(SPLIT_SEED).permutation(there)[:wanted]
    return dataclasses.replace(dataset, train=dataset.train.subset(np.sort(chosen)))


def with_noise(dataset: Dataset, share: float) -> Dataset:
    """Replaces a `share` of the labels of training and validation by other classes with
    equal probability (symmetric noise); test labels are kept.

    An example that is wrong at some share is wrong in the same way at larger ones.
    """
    if not share:
        return dataset
    classes = dataset.num_classes
    numbers = np.concatenate([dataset.train.numbers, dataset.validation.numbers])
    draws = np.random.RandomState(_NOISE_SEED)
    wrong = draws.random_sample(numbers.max() + 1) < share
    shifts = np.where(wrong, draws.randint(1, classes, len(wrong)), 0)

    def noisy(source: Source) -> Source:
        def read(numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            images, labels = source.read(numbers)
            changed = (labels + shifts[numbers]) % classes
            # Labels out of range stay so, and are found where all labels are checked.
            labels = np.where(shifts[numbers] > 0, changed, labels)
            return images, labels.astype(np.int32)

        return dataclasses.replace(source, read=read)

    return dataclasses.replace(
        dataset, train=noisy(dataset.train), validation=noisy(dataset.validation)
    )
