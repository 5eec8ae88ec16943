"""A folder of images: one sub-folder a class, at any depth below it."""

import functools

import numpy as np
from etils import epath

from introspect_jax.data import identity
from introspect_jax.data.listing import check_files, list_images, read_image, warn_of
from introspect_jax.data.sources import Dataset, Source, cut
from introspect_jax.errors import UserError
from introspect_jax.paths import absolute

SUMMARY = "a folder of images, data.data_dir, with one sub-folder a class"
TEST_FRACTION = 0.2


def load(config) -> Dataset:
    """Loads the images under `config.data_dir`, resized to `config.load_size`.

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
    root = absolute(config.data_dir)
    if not root.is_dir():
        raise UserError(f"data.data_dir: no folder {str(root)!r}")
    classes = _classes(root)
    paths = [path for images in classes.values() for path in images.values()]
    labels = np.repeat(
        np.arange(len(classes), dtype=np.int32), [len(i) for i in classes.values()]
    )
    size = (config.load_size, config.load_size)
    try:
        parts = identity.of_files(
            {f"class {name!r}": [*found.items()] for name, found in classes.items()}
        )
    except OSError as error:
        raise UserError(f"{str(root)!r} cannot be read: {error}") from error
    source = Source(
        functools.partial(_read, paths, labels, size),
        np.arange(len(paths)),
        check=lambda numbers: check_files([paths[n] for n in numbers]),
    )
    train, test = cut(len(paths), TEST_FRACTION, labels)
    kept, held_out = cut(len(train), config.validation_fraction, labels[train])
    return Dataset(
        train=source.subset(train[kept]),
        validation=source.subset(train[held_out]),
        test=source.subset(test),
        class_names=tuple(classes),
        image_shape=(*size, 3),
        parts=parts,
    )


def at_hand(config) -> bool:
    """Whether the folder exists."""
    return bool(config.data_dir) and absolute(config.data_dir).is_dir()


def _classes(root: epath.Path) -> dict[str, dict[str, epath.Path]]:
    """Maps class names to images; warns once of all files that are left out."""
    entries = sorted(root.iterdir(), key=lambda path: path.name)
    entries = [path for path in entries if not path.name.startswith(".")]
    listings = {path.name: list_images(path) for path in entries if path.is_dir()}
    for name, listing in listings.items():
        if not listing.images:
            raise UserError(
                f"class folder {str(root / name)!r} has no images "
                f"(PNG, JPEG, GIF or BMP)"
            )
    if len(listings) < 2:
        raise UserError(
            f"{str(root)!r} has {len(listings)} sub-folders; there must be one a "
            "class, at least 2"
        )
    beside = [path for path in entries if path.name not in listings]
    warn_of([*beside, *(p for found in listings.values() for p in found.left_out)])
    return {name: found.images for name, found in listings.items()}


def _read(paths, labels, size, numbers):
    images = np.stack([read_image(paths[n], 3, size) for n in numbers])
    return images, labels[numbers]
