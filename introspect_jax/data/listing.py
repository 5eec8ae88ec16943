"""Finds the images below a folder and checks them before they are read."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from absl import logging
from etils import epath

from introspect_jax.data.identity import file_size, in_threads
from introspect_jax.data.images import SUFFIXES, check_header, decode
from introspect_jax.errors import UserError


@dataclasses.dataclass
class Listing:
    """The files below a folder.

    Attributes:
      images: Name below its folder, with `/` -> path; in the order of names.
      left_out: Files that no decoder is there for.
    """

    images: dict[str, epath.Path]
    left_out: list[epath.Path]


def list_images(folder: epath.Path) -> Listing:
    """Lists the images below a folder at any depth; hidden files are ignored.

    Raises:
      UserError: A link that leads nowhere, or an image that is no file.
    """
    images, left_out = {}, []
    for path in sorted(_files(folder), key=str):
        if path.suffix.lower() in SUFFIXES:
            images[_below(path, folder)] = path
        else:
            left_out.append(path)
    return Listing(dict(sorted(images.items())), left_out)


def warn_of(left_out: Sequence[epath.Path]) -> None:
    """Logs one warning for all files that are not images."""
    if left_out:
        noun = "file" if len(left_out) == 1 else "files"
        logging.warning(
            "%d %s left out, for example %r: images are %s",
            len(left_out),
            noun,
            str(left_out[0]),
            ", ".join(SUFFIXES),
        )


def check_files(paths: Sequence[epath.Path]) -> None:
    """Checks size and header of every file, in parallel.

    Raises:
      UserError: One is no image.
    """
    in_threads(_check, paths)


def read_image(
    path: epath.Path,
    channels: int,
    size: tuple[int, int] | None,
    resize: str = "bilinear",
) -> np.ndarray:
    """Reads and decodes one image, see `images.decode`.

    Raises:
      UserError: It cannot be read.
    """
    try:
        return decode(path.read_bytes(), channels, size, resize)
    except OSError as error:
        raise _unreadable(path, error) from error


def _check(path: epath.Path) -> None:
    try:
        with path.open("rb") as file:
            check_header(file, file_size(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: epath.Path, error: OSError) -> UserError:
    return UserError(
        f"cannot read the image {str(path)!r} ({error}); repair or remove it"
    )


def _files(folder: epath.Path) -> Iterator[epath.Path]:
    """Yields the files at any depth; follows links."""
    if "://" in str(folder):
        for path in folder.iterdir():
            if path.name.startswith("."):
                continue
            if path.is_dir():
                yield from _files(path)
            else:
                yield path
        return
    above = os.path.realpath(os.path.dirname(folder))
    seen: set[str] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        parent = waiting.pop()
        real = os.path.realpath(parent)
        # A link to what was seen, or to a folder around this one.
        if real in seen or os.path.join(above, "").startswith(os.path.join(real, "")):
            continue
        seen.add(real)
        for entry in _entries(parent):
            if entry.name.startswith("."):
                continue
            # What is no link costs no further look at the disk.
            if _holds(entry.is_dir):
                waiting.append(entry.path)
            # Not for what else there is: a named pipe is waited for without end.
            elif _holds(entry.is_file):
                yield epath.Path(entry.path)
            elif entry.name.lower().endswith(SUFFIXES):
                raise UserError(
                    f"the image {entry.path!r} is not a file (a broken link?); repair "
                    "or remove it"
                )


def _holds(question: Callable[[], bool]) -> bool:
    """Whether it is so; not of links in a loop, of which the system says nothing."""
    try:
        return question()
    except OSError:
        return False


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """Lists a folder in the order of names."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise UserError(
            f"the folder {folder!r} cannot be listed ({error.strerror})"
        ) from error


def _below(path: epath.Path, folder: epath.Path) -> str:
    return os.fspath(path)[len(os.fspath(folder)) :].strip("/").replace(os.sep, "/")
