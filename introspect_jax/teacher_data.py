"""Checks whether a teacher fits the data of its student."""

import numpy as np
from absl import logging
from etils import epath
from ml_collections import ConfigDict

from introspect_jax import data
from introspect_jax.config import fields
from introspect_jax.data.identity import Identity, differing_classes
from introspect_jax.data.sources import Dataset
from introspect_jax.errors import UserError
from introspect_jax.restore import differing_facts, read_facts, recorded_identity

# A network is given what these make of an image, so they are the same for both.
_INPUTS = ("data.load_size", "data.image_size", "data.mean", "data.std")
# What decides which examples are trained on, beside how many are left out of them.
_SPLITS = (
    "data.name",
    "data.train_split",
    "data.test_split",
    "data.validation_fraction",
)


def check_fits(
    config: ConfigDict, taught: ConfigDict, folder: epath.Path, dataset: Dataset
) -> None:
    """Checks that teacher and student have the same classes and inputs; warns if the
    teacher was, or may have been, trained on the student's validation or test images.

    Args:
      config: Of the student.
      taught: Of the teacher.
      folder: Work folder of the teacher.
      dataset: Of the student.

    Raises:
      UserError: Other classes, or images that are read or normalised otherwise.
    """
    here, there = fields(config), fields(taught)
    for field in _INPUTS:
        if here[field] != there[field]:
            raise UserError(
                f"the teacher {str(folder)!r} was trained on other inputs: {field} is "
                f"{there[field]!r} there, {here[field]!r} here"
            )
    facts = read_facts(folder)
    if facts is None:
        logging.warning(
            "the teacher %s is of an earlier version, which did not record its data: "
            "that its classes are those of this run is not known",
            folder,
        )
        return
    difference = differing_classes(facts["class_names"], dataset.class_names)
    difference = difference or differing_facts(facts, dataset, "image_shape", "dtype")
    if difference:
        raise UserError(
            f"the teacher {str(folder)!r} was trained on other data (here: "
            f"{difference})"
        )
    seen = _seen(config, taught, recorded_identity(facts), dataset)
    if seen:
        logging.warning("the teacher %s %s", folder, seen)


def _seen(
    config: ConfigDict,
    taught: ConfigDict,
    identity: Identity | None,
    dataset: Dataset,
) -> str:
    """Returns the warning, to follow 'the teacher X'; empty if there is none."""
    unknown = (
        "whether it was trained on this run's validation or test images is not known"
    )
    if identity is None:
        return f"is of an earlier version, which did not record its examples: {unknown}"
    difference = identity.difference(dataset.identity)
    if difference:
        return f"was trained on other examples (here: {difference}): {unknown}"
    here, there = fields(config), fields(taught)
    same_options = config.data.options == taught.data.options
    if same_options and all(here[field] == there[field] for field in _SPLITS):
        return ""  # the training split of both was cut from the same, at one place
    copy = ConfigDict(taught.data.to_dict())
    copy.data_dir = config.data.data_dir
    try:
        trained_on = data.load(copy, hold=False).train.known_as()
    except UserError as error:
        return f"has data that cannot be read ({error}): {unknown}"
    seen = {
        split: int(np.isin(getattr(dataset, split).known_as(), trained_on).sum())
        for split in ("validation", "test")
    }
    if not any(seen.values()):
        return ""
    of = {
        split: f"{count:,} of {len(getattr(dataset, split)):,}"
        for split, count in seen.items()
    }
    return (
        f"was trained on {of['validation']} validation and {of['test']} test images of "
        "this run, which will look better than it is"
    )
