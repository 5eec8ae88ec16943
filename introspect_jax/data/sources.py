"""What a data set is made of: labelled images of one shape, read by number."""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from introspect_jax.errors import UserError

Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# Splits are the data set's, not the run's: one seed for all, whatever `config.seed`.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images, read by position.

    Attributes:
      read: numbers `[n]` -> images `[n, h, w, c]`, labels int32 `[n]`.
      numbers: int `[len]`, what the positions of this source stand for.
      in_memory: reading costs nothing.
      dtype: of the images: uint8 (pixels), or float32 in units of their own, by which
        `data.mean` and `data.std` are given then.
      classes: how many there are; if not 0, labels are checked when they are read.
    """

    read: Read
    numbers: np.ndarray
    in_memory: bool = False
    dtype: DTypeLike = np.uint8
    classes: int = 0

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Images `[n, h, w, c]` and labels int32 `[n]` of these positions.

        Raises:
          UserError: a source says other things of its images or labels than it gives.
        """
        numbers = self.numbers[positions]
        images, labels = map(np.asarray, self.read(numbers))
        if images.shape[:1] != numbers.shape or not _are_labels(labels, len(numbers)):
            raise UserError(
                f"a Source gave images of shape {images.shape} and labels of "
                f"{labels.dtype} and shape {labels.shape} for {len(numbers)} examples; "
                "labels are integers, one an image"
            )
        if images.dtype != self.dtype:
            raise UserError(
                f"a Source of {np.dtype(self.dtype)} images gave {images.dtype}: give "
                "it Source(..., dtype=np.float32) or convert the images"
            )
        if self.classes and len(labels):
            low, high = labels.min(), labels.max()
            if not 0 <= low <= high < self.classes:
                raise UserError(
                    f"labels must lie in 0..{self.classes - 1}, got {low}..{high} (a "
                    "split without labels?)"
                )
        return images, labels

    def subset(self, positions: np.ndarray) -> "Source":
        """The source that has only these positions, in their order."""
        return dataclasses.replace(self, numbers=self.numbers[positions])

    def held(self) -> "Source":
        """The same images, held in memory from the first reading on."""
        if self.in_memory:
            return self
        loaded = functools.cache(lambda: array_source(*self.read(self.numbers)))
        positions = np.arange(len(self))
        return dataclasses.replace(
            self,
            read=lambda numbers: loaded().take(numbers),
            numbers=positions,
            in_memory=True,
        )


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

    def describe(self) -> dict[str, Any]:
        """What can be known of the data without reading them, for a file of JSON."""
        splits = ("train", "validation", "test")
        return {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "dtype": str(np.dtype(self.train.dtype)),
            "examples": {split: len(getattr(self, split)) for split in splits},
        }

    def describe_classes(self) -> dict[str, int | str]:
        """Their `count`, and the `sha256` of their names in order."""
        names = json.dumps(self.class_names).encode()
        return {
            "count": self.num_classes,
            "sha256": hashlib.sha256(names).hexdigest(),
        }

    @property
    def megabytes(self) -> float:
        """Of the training images as read."""
        values = len(self.train) * float(np.prod(self.image_shape))
        return values * np.dtype(self.train.dtype).itemsize / 1e6


def array_source(images: np.ndarray, labels: np.ndarray) -> Source:
    """A source over arrays in memory.

    Args:
      images: `[n, h, w, c]`: uint8 pixels, other integers from 0 to 255, which are
        taken as such, or floats, which are used as they are.
      labels: integers `[n]`, the classes from 0.

    Raises:
      UserError: arrays of other shapes or types, or values that are not finite.

    >>> array_source(np.zeros((2, 4, 4, 1), np.float16), [0, 1]).dtype
    dtype('float32')
    """
    images, labels = _image_array(np.asarray(images)), np.asarray(labels)
    if not _are_labels(labels, len(images)):
        raise UserError(
            f"labels must be integers of shape {images.shape[:1]}, one an image, got "
            f"{labels.dtype} of shape {labels.shape}"
        )
    labels = labels.astype(np.int32)
    return Source(
        lambda numbers: (images[numbers], labels[numbers]),
        np.arange(len(labels)),
        in_memory=True,
        dtype=images.dtype,
    )


def _are_labels(labels: np.ndarray, count: int) -> bool:
    """Whether they are integers, one for each of `count` images."""
    return labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)


def _image_array(images: np.ndarray) -> np.ndarray:
    """uint8 or float32, the same values.

    Raises:
      UserError: no such values.
    """
    if images.ndim != 4:
        raise UserError(
            "images must have the shape [n, height, width, channels], got "
            f"{images.shape}"
        )
    if np.issubdtype(images.dtype, np.floating):
        with np.errstate(over="ignore"):
            images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise UserError("images have values that are not finite (as float32)")
        return images
    if images.dtype == np.uint8:
        return images
    if not np.issubdtype(images.dtype, np.integer):
        raise UserError(
            "images must be uint8, or floats in units of their own, got "
            f"{images.dtype}; convert them"
        )
    low, high = (images.min(), images.max()) if images.size else (0, 0)
    if not 0 <= low <= high <= 255:
        raise UserError(
            "images must be uint8, or floats in units of their own, got "
            f"{images.dtype} from {low} to {high}; convert them"
        )
    return images.astype(np.uint8)


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
            everything, test_size=fraction, stratify=labels, random_state=SPLIT_SEED
        )
    except ValueError as error:
        raise UserError(
            f"cannot cut {fraction:.0%} of {count} examples off with every class in "
            f"both parts: {error}"
        ) from error
    return np.sort(rest), np.sort(part)
