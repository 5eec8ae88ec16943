"""Labelled images: where they come from, in which order, how they are varied.

A data set is one file here, with `SUMMARY` (one line) and `load(config) -> Dataset`,
where `config` is `config.data`; adding one is adding its file. From outside it is
`load(config, **options)`, given by its import path, with `config.data.options`. What
is no entry's name is one of TFDS. `sources.py` has what a data set is made of.
"""

import dataclasses

import numpy as np
from ml_collections import ConfigDict, FieldReference

from introspect_jax import options as checks
from introspect_jax.data.augment import check_flip
from introspect_jax.data.memory import describe, host_bytes
from introspect_jax.data.sources import SPLITS, Dataset, Source
from introspect_jax.data.variants import with_fewer, with_noise
from introspect_jax.doors import Door, is_import_path, load_object
from introspect_jax.errors import UserError

DOOR = Door(__name__, "data")


def default_config() -> ConfigDict:
    """Returns the default `config.data`."""
    return ConfigDict(
        {
            "name": "cifar10",
            "data_dir": "",  # "": TFDS_DATA_DIR, or TFDS's own default
            "train_split": "train",
            "test_split": "test",
            "validation_fraction": 0.1,  # of the training split
            "train_examples": 0,  # of what is left for training; 0: all
            "label_noise": 0.0,  # share of wrong labels in the training split
            "load_size": 0,  # images are resized to this; 0: as they are
            "image_size": 0,  # the network sees crops of this; 0: load_size
            # Of pixels in [0, 1], or of float images in their own units; one for all
            # channels or each.
            "mean": (0.5,),
            "std": (0.25,),
            "device_megabytes": 2000,  # larger training splits are streamed
            "read_threads": 4,
            "options": {},  # of a data set that is named by its import path
            "augment": {
                "crop_padding": 0,
                # Or True or "alternating"; a field that is False takes no string.
                "flip": FieldReference(False, field_type=object),
                "cutout": 0,  # side of the square
                "mixup": 0.0,  # alpha
                "cutmix": 0.0,  # alpha
            },
        }
    )


def check(config: ConfigDict) -> None:
    """Raises a UserError if `config.data` is invalid; takes the whole config."""
    data = config.data
    DOOR.check_options(data)
    if is_import_path(data.name):
        load_object(data.name, "data")
    least = ("train_examples", "load_size", "image_size", "device_megabytes")
    checks.check_least("data.", data, **dict.fromkeys((*least, "read_threads"), 0))
    if data.read_threads > 1000:
        raise UserError(
            f"data.read_threads must be at most 1000, got {data.read_threads}"
        )
    share = (0, 1, "[)")
    checks.check_range("data.", data, validation_fraction=share, label_noise=share)
    check_flip(data.augment)


def load(config: ConfigDict, *, hold: bool = True) -> Dataset:
    """Loads the data set that `config.data` names, with its splits.

    Of `train_examples` and `label_noise` see `config`: the validation examples are the
    same whatever they are.

    Args:
      config: `config.data`.
      hold: Whether all splits are held in memory from their first reading on, if the
        training split fits into `device_megabytes`. Not for one of several processes,
        which reads its share alone.

    Raises:
      UserError: Data that do not exist, are not prepared, or do not fit.
    """
    dataset = _checked(_load(config), config.name)
    # Noise first: which labels are wrong does not depend on how many are taken.
    dataset = with_fewer(with_noise(dataset, config.label_noise), config)
    if not hold or dataset.megabytes > config.device_megabytes:
        return dataset
    if dataset.megabytes * 1e6 > host_bytes():
        raise UserError(
            f"the training images take {describe(dataset.megabytes * 1e6)}, more than "
            f"the {describe(host_bytes())} of this machine; lower "
            "data.device_megabytes, and they are streamed"
        )
    # None is read before it is first asked for: the test split at the end.
    threads = config.read_threads
    held = {split: getattr(dataset, split).held(threads) for split in SPLITS}
    return dataclasses.replace(dataset, **held)


def at_hand(config: ConfigDict) -> bool:
    """Whether the data exist where `config.data` says, so that loading downloads
    nothing; True for data sets from outside, which cannot tell."""
    if is_import_path(config.name):
        return True
    entry = DOOR.get(config.name)[1]
    return entry.at_hand(config) if hasattr(entry, "at_hand") else True


def verify(
    dataset: Dataset, *, test: bool = True, share: tuple[int, int] = (0, 1)
) -> None:
    """Checks every image before training, so that none fails after it.

    What is held in memory is read; of what is not, a data set looks at its files.

    Args:
      dataset: Of `load`.
      test: Whether the test split is needed.
      share: `(i, n)`: every n-th example from i on, where n processes share them.

    Raises:
      UserError: An image that cannot be read, or a label out of range.
    """
    for split in SPLITS if test else SPLITS[:2]:
        getattr(dataset, split).verify(share)


def _load(config: ConfigDict) -> Dataset:
    if is_import_path(config.name):
        return DOOR.make_outside(config, config, wanted=Dataset)
    return DOOR.get(config.name)[1].load(config)


def _checked(dataset: Dataset, name: str) -> Dataset:
    """Checks types, shapes and splits; labels are checked whenever they are read.

    Raises:
      UserError: It is no classification, or what it says of its images is not so.
    """
    if dataset.num_classes < 2:
        raise UserError(
            f"data set {name!r} has {dataset.num_classes} class; "
            "a classifier needs at least 2"
        )
    for split in ("train", "test"):
        if len(getattr(dataset, split)) == 0:
            raise UserError(f"data set {name!r}: the {split} split is empty")
    dtypes = {split: np.dtype(getattr(dataset, split).dtype) for split in SPLITS}
    if len({*dtypes.values()}) > 1:
        raise UserError(
            f"data set {name!r}: images of all splits must be of one type, uint8 or "
            "float32, got "
            + ", ".join(f"{dtype} ({split})" for split, dtype in dtypes.items())
        )
    if dtypes["train"] not in (np.uint8, np.float32):
        raise UserError(
            f"data set {name!r}: images must be uint8 or float32, got {dtypes['train']}"
        )
    splits = _identified(
        {
            split: dataclasses.replace(
                getattr(dataset, split), classes=dataset.num_classes
            )
            for split in SPLITS
        }
    )
    images, _ = splits["train"].take(np.arange(1))
    if images.shape[1:] != tuple(dataset.image_shape):
        raise UserError(
            f"data set {name!r} has images of shape {images.shape[1:]}, and says that "
            f"they are {tuple(dataset.image_shape)}: (height, width, channels)"
        )
    # Known before anything is left out or changed.
    parts = dataset.identity.parts
    return dataclasses.replace(
        dataset,
        train=splits["train"],
        validation=splits["validation"],
        test=splits["test"],
        parts=parts,
    )


def _identified(splits: dict[str, Source]) -> dict[str, Source]:
    """Gives every example one identity in all splits."""
    identities, first = {}, 0
    for source in splits.values():
        if source.identities is not None:
            first = max(first, int(source.identities.max(initial=-1)) + 1)
    for read in dict.fromkeys(source.read for source in splits.values()):
        numbers = [s.numbers.max(initial=-1) for s in splits.values() if s.read is read]
        identities[read] = np.arange(first, first + max(numbers) + 1)
        first += max(numbers) + 1
    return {
        name: source
        if source.identities is not None
        else dataclasses.replace(source, identities=identities[source.read])
        for name, source in splits.items()
    }
