"""What tells a data set from another."""

import dataclasses

import numpy as np
import pytest
from prepared import write

from introspect_jax import data
from introspect_jax.config import default_config
from introspect_jax.data.identity import Identity, Part
from introspect_jax.data.sources import Dataset, array_source, cut

CLASSES = ("a", "b", "c")


@pytest.fixture
def config():
    return default_config().data


def test_it_does_not_depend_on_what_a_run_takes_of_the_data(config):
    config.name = "digits"
    wanted = data.load(config).identity
    for changes in (
        {"validation_fraction": 0.2},
        {"train_examples": 100},
        {"label_noise": 0.3},
        {"device_megabytes": 0},
    ):
        copy = config.copy_and_resolve_references()
        copy.update(changes)
        assert data.load(copy).identity.sha256 == wanted.sha256
        assert not wanted.difference(data.load(copy).identity)


def dataset(images, labels, fraction=0.25):
    """One's own data, with a test split of its own."""
    source = array_source(images[:12], labels[:12])
    kept, held_out = cut(12, fraction)
    test = array_source(images[12:], labels[12:])
    train, validation = source.subset(kept), source.subset(held_out)
    return Dataset(train, validation, test, CLASSES, images.shape[1:])


def test_arrays_from_outside():
    images = np.random.RandomState(0).randint(0, 256, (18, 4, 4, 1), dtype=np.uint8)
    labels = np.arange(18) % 3
    before = dataset(images, labels).identity
    assert before == dataset(images, labels, 0.5).identity
    assert set(before.parts) == {"train and validation", "test"}
    for place, part in ((3, "train and validation"), (14, "test")):
        other = images.copy()
        other[place, 0, 0, 0] ^= 1
        for now in (dataset(other, labels), dataset(images, np.roll(labels, 1))):
            assert f"{part} has other examples" in before.difference(now.identity)
    fewer = dataset(images[:17], labels[:17]).identity
    assert before.difference(fewer) == "test has 5 examples, not 6"


@pytest.fixture
def prepared(tmp_path, config):
    def make(place, images, labels):
        splits = {"train": (images[:9], labels[:9]), "test": (images[9:], labels[9:])}
        write(tmp_path / place, "shapes", CLASSES, splits)
        config.name, config.data_dir = "shapes", str(tmp_path / place)
        return data.load(config)

    return make


def test_prepared_data(prepared):
    images = np.random.RandomState(0).randint(0, 256, (15, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(15) % 3
    before = prepared("one", images, labels).identity
    assert before == prepared("two", images, labels).identity
    other = prepared("three", images, np.roll(labels, 1)).identity
    assert before.difference(other) == (
        "split 'test' has other examples; split 'train' has other examples"
    )


def test_parts_of_prepared_splits_have_one_identity(prepared, config):
    images = np.random.RandomState(0).randint(0, 256, (15, 4, 4, 3), dtype=np.uint8)
    prepared("one", images, np.arange(15) % 3)
    config.validation_fraction = 0.0
    known = {}
    for split in ("train", "train[3:]", "test", "train[:2]+test"):
        config.train_split = split
        known[split] = data.load(config).train.known_as().tolist()
    assert known["test"] == list(range(6))  # by the names of the splits
    assert known["train"] == list(range(6, 15))
    assert known["train[3:]"] == known["train"][3:]
    assert known["train[:2]+test"] == known["train"][:2] + known["test"]


def test_splits_of_several_arrays_share_no_identity(config):
    images = np.zeros((18, 4, 4, 1), np.uint8)
    checked = data._checked(dataset(images, np.arange(18) % 3), "mine")
    splits = (checked.train, checked.validation, checked.test)
    known = np.concatenate([split.known_as() for split in splits])
    assert len(np.unique(known)) == 18
    held = checked.validation.held()
    np.testing.assert_array_equal(held.known_as(), checked.validation.known_as())


def test_differences_are_named():
    part = Part(3, "x")
    before = Identity(CLASSES, {f"class {c!r}": part for c in CLASSES})
    assert before == Identity.from_json(before.to_json())
    for names, says in (
        (("a", "b"), "2 classes, not 3; gone: 'c'"),
        (("a", "b", "d"), "new: 'd'; gone: 'c'"),
        (("b", "a", "c"), "the classes are in another order"),
        (tuple("defghi"), "6 classes, not 3; new: 'd', 'e', 'f' and 3 more; gone: "),
    ):
        now = dataclasses.replace(before, class_names=names)
        assert before.difference(now).startswith(says)
        assert now.sha256 != before.sha256
    five = Identity(CLASSES, {str(i): part for i in range(5)})
    assert five.difference(Identity(CLASSES, {})) == (
        "0 is gone; 1 is gone; 2 is gone; and 2 more"
    )
