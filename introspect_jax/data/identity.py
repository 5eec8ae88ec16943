"""The identity of a data set: a digest of class names and examples.

It is that of the data set itself, before subsets, noise and the validation cut, and
does not depend on where the data lie.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from etils import epath

if TYPE_CHECKING:
    from introspect_jax.data.sources import Source

T = TypeVar("T")
R = TypeVar("R")
# Files that together are no larger, and no more, are read in whole; of others only
# names and sizes are known.
_CHEAP_BYTES, _CHEAP_FILES = 100_000_000, 10_000
# Waiting for a disk or an object store is most of what a small file costs.
THREADS = 16
_PIECE = 4096  # examples in memory
_FILES_AT_ONCE = 256
_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of the examples, such as those of a class or of a split.

    Attributes:
      examples: How many there are.
      sha256: Of their names, sizes and, where that is cheap, bytes.
    """

    examples: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Identity:
    """Class names and digests of the examples of a data set.

    Attributes:
      class_names: `[classes]`.
      parts: Name of a part, as in `"class 'cat'"` -> its examples.
    """

    class_names: tuple[str, ...]
    parts: Mapping[str, Part]

    @functools.cached_property
    def sha256(self) -> str:
        """Digest of class names and parts."""
        return _sha256(json.dumps(self.to_json(), sort_keys=True).encode())

    def to_json(self) -> dict[str, Any]:
        """Returns a JSON object for `from_json`."""
        parts = {name: dataclasses.asdict(part) for name, part in self.parts.items()}
        return {"class_names": list(self.class_names), "parts": parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Identity":
        """Inverse of `to_json`; raises KeyError or TypeError for other objects."""
        parts = {name: Part(**part) for name, part in value["parts"].items()}
        return cls(tuple(value["class_names"]), parts)

    def difference(self, now: "Identity") -> str:
        """Describes how the data `now` differ; empty if they are the same."""
        return differing_classes(self.class_names, now.class_names) or self._differing(
            now.parts
        )

    def _differing(self, now: Mapping[str, Part]) -> str:
        names = [n for n in {**self.parts, **now} if self.parts.get(n) != now.get(n)]
        counts = {**now, **self.parts}
        # A change of one part may change how the files of all are known.
        names.sort(key=lambda n: n in now and counts[n].examples == now[n].examples)
        shown = []
        for name in names[:_SHOWN]:
            then, here = self.parts.get(name), now.get(name)
            if here is None or then is None:
                shown.append(f"{name} is {'gone' if here is None else 'new'}")
            elif here.examples != then.examples:
                shown.append(
                    f"{name} has {here.examples:,} examples, not {then.examples:,}"
                )
            else:
                shown.append(f"{name} has other examples")
        more = len(names) - len(shown)
        return "; ".join(shown) + (f"; and {more} more" if more else "")


def differing_classes(then: Sequence[str], now: Sequence[str]) -> str:
    """Describes how the class names `now` differ; empty if they are the same."""
    if tuple(then) == tuple(now):
        return ""
    parts = [] if len(then) == len(now) else [f"{len(now)} classes, not {len(then)}"]
    for word, names in (
        ("new", [n for n in now if n not in set(then)]),
        ("gone", [n for n in then if n not in set(now)]),
    ):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{word}: {', '.join(map(repr, names[:_SHOWN]))}{more}")
    return "; ".join(parts) or "the classes are in another order"


def of_sources(sources: Mapping[str, "Source"]) -> dict[str, Part]:
    """Computes the parts from the splits. Splits that share a source are one part, so
    that it does not matter where they were cut.

    Of sources in memory labels and pixels count; of others that say no more, their
    length.

    Args:
      sources: Split -> source, as `load` of a data set makes them.
    """
    together: dict[Any, list[str]] = {}
    for split, source in sources.items():
        together.setdefault(source.read, []).append(split)
    parts = {}
    for splits in together.values():
        first = sources[splits[0]]
        numbers = np.unique(np.concatenate([sources[s].numbers for s in splits]))
        if first.in_memory:
            digest = _of_arrays(first, numbers)
        else:
            digest = _sha256(f"{len(numbers)} {np.dtype(first.dtype)}".encode())
        parts[" and ".join(splits)] = Part(len(numbers), digest)
    return parts


def _of_arrays(source: "Source", numbers: np.ndarray) -> str:
    digest = hashlib.sha256()
    for start in range(0, len(numbers), _PIECE):
        images, labels = source.read(numbers[start : start + _PIECE])
        images = np.asarray(images)
        digest.update(f"{images.dtype}{images.shape}".encode())
        digest.update(np.ascontiguousarray(images).tobytes())
        digest.update(np.ascontiguousarray(labels, np.int64).tobytes())
    return digest.hexdigest()


def of_files(
    groups: Mapping[str, Sequence[tuple[str, epath.Path]]],
    examples: Mapping[str, int] | None = None,
) -> dict[str, Part]:
    """Computes the parts from groups of files.

    Args:
      groups: Name of a part -> names and paths of its files; a name is the same
        wherever the data lie.
      examples: Name of a part -> how many it has; by default one a file.

    Raises:
      OSError: A file is not there or cannot be read.
    """
    paths = {os.fspath(path): path for files in groups.values() for _, path in files}
    sizes = dict(zip(paths, in_threads(file_size, [*paths.values()]), strict=True))
    contents = dict.fromkeys(paths, "")
    if len(sizes) <= _CHEAP_FILES and sum(sizes.values()) <= _CHEAP_BYTES:
        digests = in_threads(lambda p: _sha256(p.read_bytes()), [*paths.values()])
        contents = dict(zip(paths, digests, strict=True))
    parts = {}
    for group, files in groups.items():
        lines = [
            [name, sizes[os.fspath(path)], contents[os.fspath(path)]]
            for name, path in files
        ]
        count = len(files) if examples is None else examples[group]
        parts[group] = Part(count, _sha256(json.dumps([count, lines]).encode()))
    return parts


def in_threads(function: Callable[[T], R], values: Sequence[T]) -> list[R]:
    """Maps a function that waits for disks over many values, in order."""

    def piece(start: int) -> list[R]:
        return [function(value) for value in values[start : start + _FILES_AT_ONCE]]

    # A task for each value would take more memory than the values.
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        pieces = pool.map(piece, range(0, len(values), _FILES_AT_ONCE))
        return [result for results in pieces for result in results]


def file_size(path: epath.Path) -> int:
    """Size in bytes."""
    if "://" in os.fspath(path):
        return path.stat().length
    return os.stat(path).st_size  # epath also looks up the names of the owners


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
