"""Reads any TFDS data set for image classification, without TensorFlow."""

import contextlib
import functools
import http.client
import importlib.util
import os
import threading
import urllib.error
import urllib.request
from typing import Any

import numpy as np
from absl import logging
from etils import epath

from introspect_jax import data
from introspect_jax.data import identity
from introspect_jax.data.images import decode
from introspect_jax.data.sources import Dataset, Source, cut
from introspect_jax.errors import UserError, nearest
from introspect_jax.paths import absolute

SUMMARY = "prepared data of TFDS, or what it can download and prepare"
NAMES = ("any image classification of TFDS",)
PATTERN = ".+"  # whatever no other data set is called
# Where TFDS keeps its own copies; asked only to learn whether there is a network.
_NETWORK_PROBE = "https://storage.googleapis.com/tfds-data"
_NETWORK_SECONDS = 6.0


def load(config) -> Dataset:
    """Loads `config.name` from `config.data_dir` or `TFDS_DATA_DIR`.

    What is not prepared yet is prepared, if there is a network.

    Raises:
      UserError: no such data set, not prepared and not to be had, no such split, or
        not images with one label each.
    """
    builder = _builder(config)
    if not builder.is_prepared():
        _prepare(builder, config)
        builder = _builder(config)
    image_key, label_key, shape = _features(builder, config)
    labels = builder.info.features[label_key]
    size = shape[:2] if config.load_size > 0 else None
    train, test = (
        _source(builder, split, image_key, label_key, shape, size)
        for split in (config.train_split, config.test_split)
    )
    kept, held_out = cut(len(train), config.validation_fraction)
    return Dataset(
        train=train.subset(kept),
        validation=train.subset(held_out),
        test=test,
        class_names=tuple(labels.int2str(i) for i in range(labels.num_classes)),
        image_shape=shape,
        parts=_parts(builder, (config.train_split, config.test_split)),
    )


def at_hand(config) -> bool:
    """Whether the data set is prepared."""
    try:
        return _builder(config).is_prepared()
    except UserError:
        return False


def _parts(builder, specs) -> dict[str, identity.Part]:
    """Computes the parts from the record files of the splits that are read."""
    names = {part.splitname for spec in specs for part in _absolute(builder, spec)}
    splits = {name: builder.info.splits[name] for name in sorted(names)}
    groups = {
        f"split {name!r}": [
            (os.path.basename(path), epath.Path(path)) for path in split.filepaths
        ]
        for name, split in splits.items()
    }
    examples = {f"split {name!r}": split.num_examples for name, split in splits.items()}
    try:
        return identity.of_files(groups, examples)
    except OSError as error:
        raise UserError(
            f"data set {builder.info.name!r}: a file of {str(builder.data_path)!r} "
            f"cannot be read ({error}); prepare the data set again"
        ) from error


def _identities(builder, split: str) -> np.ndarray:
    """Numbers the records of a split, such as `train[:80%]`, among those of all whole
    splits."""
    splits = builder.info.splits
    counts = [splits[name].num_examples for name in sorted(splits)]
    first = dict(zip(sorted(splits), np.cumsum([0, *counts]), strict=False))
    return np.concatenate(
        [
            first[part.splitname]
            + np.arange(part.from_ or 0, part.to or splits[part.splitname].num_examples)
            for part in _absolute(builder, split)
        ]
    )


def _absolute(builder, split: str):
    """Returns the records of a split, such as `train[:80%]`, as parts of whole ones."""
    from tensorflow_datasets.core import ReadInstruction

    return ReadInstruction.from_spec(split).to_absolute(builder.info.splits)


def _features(builder, config) -> tuple[str, str, tuple[int, int, int]]:
    """Returns the names of image and label, and the shape of the images."""
    features = dict(builder.info.features.items())
    image_key, label_key = builder.info.supervised_keys or ("image", "label")
    image: Any = features.get(image_key)
    label: Any = features.get(label_key)
    if not hasattr(label, "num_classes") or len(getattr(image, "shape", ())) != 3:
        raise UserError(
            f"data set {config.name!r} is not image classification; its features are: "
            f"{', '.join(features)}"
        )
    if image.shape[-1] not in (1, 3):
        raise UserError(
            f"data set {config.name!r} has images of shape {image.shape}; they must "
            "have 1 or 3 channels"
        )
    if config.load_size > 0:
        return image_key, label_key, (config.load_size,) * 2 + image.shape[-1:]
    if None in image.shape:
        raise UserError(
            f"data set {config.name!r} has images of many sizes; set data.load_size to "
            "the side in pixels that all are resized to"
        )
    return image_key, label_key, image.shape


def _builder(config):
    import tensorflow_datasets as tfds

    level = logging.get_verbosity()
    # It warns of what is not prepared, which is then said in full or put right.
    logging.set_verbosity(min(level, logging.ERROR))
    try:
        where = str(absolute(config.data_dir)) if config.data_dir else None
        return tfds.builder(config.name, data_dir=where)
    except tfds.core.DatasetNotFoundError as error:
        own = [name for name in data.DOOR.entries if name != "tfds_reader"]
        catalogue = tfds.list_builders(with_community_datasets=False)
        where = config.data_dir or tfds.core.constants.DATA_DIR
        raise UserError(
            f"unknown data set {config.name!r}{nearest(config.name, own + catalogue)}; "
            f"there are: {', '.join(own)}, the {len(catalogue)} sets of TFDS "
            "(tensorflow.org/datasets/catalog), those prepared under "
            f"{str(where)!r}: {_prepared(where)}; or an import path, "
            "--config.data.name=package.module:object"
        ) from error
    except Exception as error:  # a version or variant that is not there, and more
        raise UserError(
            f"data set {config.name!r} cannot be opened ({_first_line(error)}); names "
            "are NAME, NAME/VARIANT or NAME/VARIANT:VERSION of TFDS"
        ) from error
    finally:
        logging.set_verbosity(level)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _prepared(where) -> str:
    found = epath.Path(where).glob("*/*/dataset_info.json")
    return ", ".join(sorted({p.parent.parent.name for p in found})) or "none"


def _prepare(builder, config) -> None:
    """Downloads and prepares the data set, or explains how to, without TFDS's
    retries."""
    where = str(builder.data_path)
    how = (
        'prepare it once on a machine with a network: pip install -e ".[prepare]" '
        "(TensorFlow, which many data sets need for this only), then the same command; "
        "or point TFDS_DATA_DIR or --config.data.data_dir at a folder that has it"
    )
    if not _network():
        raise UserError(
            f"data set {config.name!r} is not prepared (looked in {where!r}) and there "
            f"is no network; {how}"
        )
    try:
        builder.download_and_prepare(file_format="array_record")
    except ImportError as error:
        raise UserError(
            f"data set {config.name!r} is not prepared (looked in {where!r}) and "
            f"preparing it needs a package that is not installed ({error}); {how}"
        ) from error
    except Exception as error:  # a download fails in as many ways as there are hosts
        if importlib.util.find_spec("tensorflow") is None:
            how = f"it may be that TensorFlow is missing; {how}"
        raise UserError(
            f"preparing data set {config.name!r} in {where!r} failed "
            f"({_first_line(error)}); {how}"
        ) from error


def _network() -> bool:
    """Whether a server responds, even with an error.

    In a thread: the time-out of a connection is not one of the name look-up.
    """
    answers = []

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            with contextlib.suppress(urllib.error.HTTPError):  # an answer too
                urllib.request.urlopen(_NETWORK_PROBE, timeout=_NETWORK_SECONDS).close()
            answers.append(True)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_NETWORK_SECONDS)
    return bool(answers)


def _source(builder, split, image_key, label_key, shape, resized_to) -> Source:
    from tensorflow_datasets.core.decode import SkipDecoding

    if split.split("[")[0] not in builder.info.splits:  # "train[:80%]" is one too
        raise UserError(
            f"data set {builder.info.name!r} has no split {split!r}; it has: "
            f"{', '.join(builder.info.splits)} (set data.train_split, data.test_split)"
        )
    try:
        # Decoded here: TFDS takes OpenCV where that happens to be installed, whose
        # pixels differ.
        records = builder.as_data_source(
            split=split, decoders={image_key: SkipDecoding()}
        )
    except NotImplementedError as error:
        raise UserError(
            f"data set {builder.info.name!r} in {str(builder.data_path)!r} was "
            "prepared in a format that cannot be read by number; prepare it again "
            "with download_and_prepare(file_format='array_record')"
        ) from error
    except ValueError as error:
        raise UserError(
            f"data set {builder.info.name!r}: the split {split!r} cannot be read "
            f"({_first_line(error)})"
        ) from error
    read = functools.partial(_read, records, image_key, label_key, shape, resized_to)
    return Source(read, np.arange(len(records)), identities=_identities(builder, split))


def _read(records, image_key, label_key, shape, resized_to, numbers):
    found = records.__getitems__([int(n) for n in numbers])
    images = np.empty((len(found), *shape), np.uint8)
    for i, (number, record) in enumerate(zip(numbers, found, strict=True)):
        try:
            images[i] = decode(record[image_key], shape[2], resized_to)
        except OSError as error:
            raise UserError(
                f"image {number} of the data set cannot be read ({error}); prepare "
                "the data set again"
            ) from error
    return images, np.asarray([record[label_key] for record in found], np.int32)
