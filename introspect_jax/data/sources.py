"""Where images come from: TFDS, a folder, or the digits that scikit-learn ships.

Whatever it is, a source ends as uint8 images of one shape that are read by number.
"""

import dataclasses
import functools
import hashlib
import importlib
import json
from collections.abc import Callable, Sequence

import numpy as np

from introspect_jax.data.memory import describe, host_bytes
from introspect_jax.errors import UserError

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# Splits and wrong labels are the data set's, not the run's: one seed for all, whatever
# `config.seed`.
_SPLIT_SEED = 0
_NOISE_SEED = 1


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images, read by position.

    Attributes:
      read: numbers `[n]` -> images uint8 `[n, h, w, c]`, labels int32 `[n]`.
      numbers: int `[len]`, what the positions of this source stand for.
      in_memory: reading costs nothing.
    """

    read: Read
    numbers: np.ndarray
    in_memory: bool = False

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images uint8 `[n, h, w, c]` and labels int32 `[n]` of these positions."""
        return self.read(self.numbers[positions])

    def subset(self, positions: np.ndarray) -> "Source":
        """The source that has only these positions, in their order."""
        return dataclasses.replace(self, numbers=self.numbers[positions])

    def held(self) -> "Source":
        """The same images, held in memory from the first reading on."""
        if self.in_memory:
            return self
        loaded = functools.cache(lambda: array_source(*self.read(self.numbers)))
        positions = np.arange(len(self))
        return Source(lambda numbers: loaded().take(numbers), positions, in_memory=True)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three splits of a data set.

    Attributes:
      train: what is learnt from.
      validation: cut from the training split, for every choice; may be empty.
      test: read once, at the end.
      class_names: `[classes]`.
      image_shape: `(h, w, c)` of the images as read.
    """

    train: Source
    validation: Source
    test: Source
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def describe_classes(self) -> dict[str, int | str]:
        """Their `count`, and the `sha256` of their names in order."""
        names = json.dumps(self.class_names).encode()
        return {
            "count": self.num_classes,
            "sha256": hashlib.sha256(names).hexdigest(),
        }

    @property
    def megabytes(self) -> float:
        """Of the training images as uint8."""
        return len(self.train) * float(np.prod(self.image_shape)) / 1e6


def load(config, *, hold: bool = True) -> Dataset:
    """The data set that `config.data` names, with its splits.

    Of `train_examples` and `label_noise` see `config`: the validation examples are the
    same whatever they are.

    Args:
      config: `config.data`.
      hold: whether all splits are held in memory from their first reading on, if the
        training split fits into `device_megabytes`. Not for one of several processes,
        which reads its share alone.

    Raises:
      UserError: data that do not exist, are not prepared, or do not fit.
    """
    # Read late: each of these imports a library that the others do not need.
    reader = config.name if config.name in ("digits", "folder") else "tfds_reader"
    dataset = importlib.import_module(f"introspect_jax.data.{reader}").load(config)
    if dataset.num_classes < 2:
        raise UserError(
            f"data set {config.name!r} has {dataset.num_classes} class; "
            "a classifier needs at least 2"
        )
    for split in ("train", "test"):
        if len(getattr(dataset, split)) == 0:
            raise UserError(f"data set {config.name!r}: the {split} split is empty")
    # Noise first: which labels are wrong does not depend on how many are taken.
    dataset = _with_fewer(_with_noise(dataset, config.label_noise), config)
    if not hold or dataset.megabytes > config.device_megabytes:
        return dataset
    if dataset.megabytes * 1e6 > host_bytes():
        raise UserError(
            f"the training images take {describe(dataset.megabytes * 1e6)}, more than "
            f"the {describe(host_bytes())} of this machine; lower "
            "data.device_megabytes, and they are streamed"
        )
    # None is read before it is first asked for: the test split at the end.
    held = {s: getattr(dataset, s).held() for s in ("train", "validation", "test")}
    return dataclasses.replace(dataset, **held)


def _with_fewer(dataset: Dataset, config) -> Dataset:
    """Only `train_examples` of the training split, drawn once for all runs."""
    wanted, there = config.train_examples, len(dataset.train)
    if not wanted:
        return dataset
    if wanted > there:
        raise UserError(
            f"data.train_examples is {wanted}, more than the {there} training examples "
            f"of {config.name!r} without its validation split"
        )
    chosen = np.random.RandomState(_SPLIT_SEED).permutation(there)[:wanted]
    return dataclasses.replace(dataset, train=dataset.train.subset(np.sort(chosen)))


def _with_noise(dataset: Dataset, share: float) -> Dataset:
    """Symmetric noise: `share` of the labels of training and validation are of another
    class, each as likely; of the test, none.

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
            return images, ((labels + shifts[numbers]) % classes).astype(np.int32)

        return dataclasses.replace(source, read=read)

    return dataclasses.replace(
        dataset, train=noisy(dataset.train), validation=noisy(dataset.validation)
    )


def array_source(images: np.ndarray, labels: np.ndarray) -> Source:
    """A source over arrays in memory."""
    images, labels = np.asarray(images, np.uint8), np.asarray(labels, np.int32)
    return Source(
        lambda numbers: (images[numbers], labels[numbers]),
        np.arange(len(labels)),
        in_memory=True,
    )


def cut(
    count: int, fraction: float, labels: Sequence[int] | np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted positions of a fixed random split into (rest, `fraction`).

    Args:
      count: how many examples there are.
      fraction: share of the second part, in [0, 1).
      labels: ints `[count]` to stratify by, where they are known.

    Raises:
      UserError: classes too small to be in both parts.
    """
    from sklearn.model_selection import train_test_split

    everything = np.arange(count)
    if round(count * fraction) == 0:
        return everything, everything[:0]
    try:
        rest, part = train_test_split(
            everything, test_size=fraction, stratify=labels, random_state=_SPLIT_SEED
        )
    except ValueError as error:
        raise UserError(
            f"cannot cut {fraction:.0%} of {count} examples off with every class in "
            f"both parts: {error}"
        ) from error
    return np.sort(rest), np.sort(part)
