"""A folder of images: one sub-folder a class, PNG and JPEG."""

import functools
import os

import numpy as np
from etils import epath

from introspect_jax.data.images import decode
from introspect_jax.data.sources import Dataset, Source, cut
from introspect_jax.errors import UserError

SUMMARY = "a folder of images, data.data_dir, with one sub-folder a class"
TEST_FRACTION = 0.2
SUFFIXES = (".png", ".jpg", ".jpeg")


def load(config) -> Dataset:
    """The images under `config.data_dir`, all resized to `config.load_size`.

    20 % are cut off for the test, stratified and the same for every seed.

    Raises:
      UserError: no such folder, no classes, a class without images, or no size.
    """
    if not config.data_dir:
        raise UserError(
            "data.name='folder' needs data.data_dir: a folder with one sub-folder a "
            "class"
        )
    if config.load_size <= 0:
        raise UserError(
            "data.name='folder' needs data.load_size, the side in pixels that all "
            f"images are resized to; got {config.load_size}"
        )
    root = epath.Path(config.data_dir)
    if not root.is_dir():
        raise UserError(f"data.data_dir: no folder {str(root)!r}")
    folders = sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: p.name)
    folders = [p for p in folders if not p.name.startswith(".")]
    paths: list[epath.Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        found = list_images(folder)
        if not found:
            raise UserError(f"class folder {str(folder)!r} has no PNG or JPEG images")
        paths += found
        labels += [label] * len(found)
    if len(folders) < 2:
        raise UserError(
            f"{str(root)!r} has {len(folders)} sub-folders; there must be one a class, "
            "at least 2"
        )
    label_array = np.asarray(labels, np.int32)
    source = Source(
        functools.partial(_read, paths, label_array, config.load_size),
        np.arange(len(paths)),
    )
    train, test = cut(len(paths), TEST_FRACTION, label_array)
    kept, held_out = cut(len(train), config.validation_fraction, label_array[train])
    return Dataset(
        train=source.subset(train[kept]),
        validation=source.subset(train[held_out]),
        test=source.subset(test),
        class_names=tuple(p.name for p in folders),
        image_shape=(config.load_size, config.load_size, 3),
    )


def list_images(folder: epath.Path) -> list[epath.Path]:
    """The PNG and JPEG files of a folder, by name; hidden ones are left out.

    Raises:
      UserError: a link that leads nowhere, or what else is neither file nor folder.
    """
    found = []
    for path in sorted(folder.iterdir(), key=lambda p: p.name):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        if _is_file(path):
            found.append(path)
        elif not path.is_dir():
            raise UserError(
                f"the image {str(path)!r} is not a file (a broken link?); repair or "
                "remove it"
            )
    return found


def _is_file(path: epath.Path) -> bool:
    # What epath calls a file may be a named pipe, which is waited for without end.
    return path.is_file() if "://" in str(path) else os.path.isfile(path)


def _read(paths, labels, size, numbers):
    images = np.stack([_open(paths[n], size) for n in numbers])
    return images, labels[numbers]


def _open(path: epath.Path, size: int) -> np.ndarray:
    try:
        return decode(path.read_bytes(), 3, size)
    except OSError as error:
        raise UserError(
            f"cannot read the image {str(path)!r} ({error}); repair or remove it"
        ) from error
