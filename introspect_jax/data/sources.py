"""Data sets: labelled images of one shape, read by number."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from introspect_jax.data.identity import Identity, Part, of_sources
from introspect_jax.errors import UserError

SPLITS = ("train", "validation", "test")
Read = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
# Numbers `[n]` -> None; raises a UserError for images that cannot be read.
Check = Callable[[np.ndarray], None]
# Splits are the data set's, not the run's: one seed for all, whatever `config.seed`.
SPLIT_SEED = 0
_PIECE = 1024  # examples that are read at once


@dataclasses.dataclass(frozen=True)
class Source:
    """Labelled images that are read by position.

    Attributes:
      read: numbers `[n]` -> images `[n, h, w, c]`, labels int32 `[n]`.
      numbers: int `[len]`, what the positions of this source stand for.
      in_memory: reading costs nothing.
      dtype: of the images: uint8 (pixels), or float32 in units of their own, by which
        `data.mean` and `data.std` are given then.
      classes: how many there are; if not 0, labels are checked when they are read.
      check: looks at the files of numbers `[n]` without decoding them, or None.
      identities: int `[largest number + 1]`, the same for the same example in every
        split of the data set; None: the numbers are.
    """

    read: Read
    numbers: np.ndarray
    in_memory: bool = False
    dtype: DTypeLike = np.uint8
    classes: int = 0
    check: Check | None = None
    identities: np.ndarray | None = None

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
        """Returns the source with only these positions, in their order."""
        return dataclasses.replace(self, numbers=self.numbers[positions])

    def held(self, threads: int = 1) -> "Source":
        """Returns a source that keeps the images in memory from the first read on.

        Args:
          threads: That read them.
        """
        if self.in_memory:
            return self
        loaded = functools.cache(lambda: array_source(*self._all(threads)))
        return dataclasses.replace(
            self,
            read=lambda numbers: loaded().take(numbers),
            numbers=np.arange(len(self)),
            identities=self.known_as(),
            in_memory=True,
        )

    def _all(self, threads: int) -> tuple[np.ndarray, np.ndarray]:
        """Reads all images and labels."""
        first, labels = self.read(self.numbers[:_PIECE])
        images = np.empty((len(self), *first.shape[1:]), first.dtype)
        all_labels = np.empty(len(self), labels.dtype)

        def read(start: int) -> None:
            piece = slice(start, start + _PIECE)
            images[piece], all_labels[piece] = self.read(self.numbers[piece])

        images[:_PIECE], all_labels[:_PIECE] = first, labels
        with concurrent.futures.ThreadPoolExecutor(max(threads, 1)) as pool:
            for _ in pool.map(read, range(_PIECE, len(self), _PIECE)):
                pass  # an error in a thread is raised here
        return images, all_labels

    def known_as(self) -> np.ndarray:
        """Returns ints `[len]` that identify each example in all splits."""
        numbers, known = self.numbers, self.identities
        return numbers if known is None else known[numbers]

    def verify(self, share: tuple[int, int] = (0, 1)) -> None:
        """Reads what is kept in memory, and checks the files of other sources.

        Args:
          share: `(i, n)`: every n-th example from i on, where n processes share them.

        Raises:
          UserError: an image that cannot be read, or a label out of range.
        """
        positions = np.arange(share[0], len(self), share[1])
        if self.in_memory:
            for start in range(0, len(positions), _PIECE):
                self.take(positions[start : start + _PIECE])
        elif self.check is not None:
            self.check(self.numbers[positions])


@dataclasses.dataclass(frozen=True)
class Dataset:
    """The three splits of a data set.

    Attributes:
      train: what is learnt from.
      validation: cut from the training split, for every choice; may be empty.
      test: read once, at the end.
      class_names: `[classes]`.
      image_shape: `(h, w, c)` of the images as read.
      parts: what `data.identity` can say of its examples beyond what the splits hold.
    """

    train: Source
    validation: Source
    test: Source
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    parts: Mapping[str, Part] | None = None

    @functools.cached_property
    def identity(self) -> Identity:
        """Identity of the data set; see `data.identity`."""
        parts = self.parts
        if parts is None:
            parts = of_sources({name: getattr(self, name) for name in SPLITS})
        return Identity(self.class_names, parts)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def describe(self) -> dict[str, Any]:
        """Returns a JSON object that describes the data set without its images."""
        return {
            "class_names": list(self.class_names),
            "image_shape": list(self.image_shape),
            "dtype": str(np.dtype(self.train.dtype)),
            "examples": {split: len(getattr(self, split)) for split in SPLITS},
            "parts": self.identity.to_json()["parts"],
        }

    def describe_classes(self) -> dict[str, int | str]:
        """Returns the `count` of the class names and their `sha256`, in order."""
        names = json.dumps(self.class_names).encode()
        return {
            "count": self.num_classes,
            "sha256": hashlib.sha256(names).hexdigest(),
        }

    @property
    def megabytes(self) -> float:
        """Size of the training images as read."""
        values = len(self.train) * float(np.prod(self.image_shape))
        return values * np.dtype(self.train.dtype).itemsize / 1e6


def array_source(images: np.ndarray, labels: np.ndarray) -> Source:
    """Makes a source from arrays in memory.

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
    """Whether these are integers, one per image."""
    return labels.shape == (count,) and np.issubdtype(labels.dtype, np.integer)


def _image_array(images: np.ndarray) -> np.ndarray:
    """Converts to uint8 or float32 without changing values.

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
    """Splits positions at random, the same way for every seed, into (rest, `fraction`).

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
