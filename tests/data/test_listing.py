"""Folders of images as people have them."""

import dataclasses
import io
import os

import numpy as np
import pytest
from PIL import Image

from introspect_jax import data
from introspect_jax.config import default_config
from introspect_jax.data.variants import with_noise
from introspect_jax.errors import UserError

LEVELS = {"ant": 40, "bee": 120, "cat": 200}


def encoded(level, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(np.full((9, 9, 3), level, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    for name, level in LEVELS.items():
        (tmp_path / name).mkdir()
        for i in range(10):
            (tmp_path / name / f"{i:03}.png").write_bytes(encoded(level))
    return tmp_path


@pytest.fixture
def config(folder):
    config = default_config().data
    config.name, config.data_dir, config.load_size = "folder", str(folder), 8
    return config


def everything(dataset):
    splits = (dataset.train, dataset.validation, dataset.test)
    read = [split.take(np.arange(len(split))) for split in splits]
    images, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    return images, labels


def test_images_at_any_depth_and_of_every_kind(folder, config, caplog):
    (folder / "cat" / "more" / "deep").mkdir(parents=True)
    for kind, suffix in (("GIF", "GIF"), ("BMP", "bmp"), ("JPEG", "jfif")):
        path = folder / "cat" / "more" / "deep" / f"x.{suffix}"
        path.write_bytes(encoded(LEVELS["cat"], kind))
    (folder / "cat" / "link").symlink_to(folder / "cat", target_is_directory=True)
    dataset = data.load(config)
    images, labels = everything(dataset)
    np.testing.assert_array_equal(np.bincount(labels), [10, 10, 13])
    levels = np.array(list(LEVELS.values()))[labels]
    assert np.abs(images.astype(int) - levels[:, None, None, None]).max() < 3
    assert not caplog.text


def test_one_warning_for_all_that_is_left_out(folder, config, caplog):
    (folder / "cat" / "more").mkdir()
    for i in range(7):
        (folder / "cat" / "more" / f"{i:03}.webp").write_bytes(encoded(0, "WEBP"))
    (folder / "labels.csv").write_text("")
    (folder / "bee" / ".DS_Store").write_text("")
    with caplog.at_level("WARNING", logger="absl"):
        data.load(config)
    (record,) = caplog.records
    first = str(folder / "labels.csv")
    assert f"8 files left out, for example {first!r}" in record.getMessage()


@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "it is empty"), (b"GIF89", "it is not a PNG"), (b"\x89PNG", "not a PNG")],
)
def test_every_file_is_looked_at_before_training(folder, config, content, says, held):
    """Whichever split it is in."""
    config.device_megabytes = 2000 if held else 0
    for path in (folder / "ant" / "003.png", folder / "cat" / "009.png"):
        kept = path.read_bytes()
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"cannot read the image {str(path)!r}"):
            data.verify(data.load(config))
        path.write_bytes(kept)
    data.verify(data.load(config))


def test_what_is_held_is_decoded_before_training(folder, config):
    """A file with a good header and nothing behind it."""
    numbers = data.load(config, hold=False).test.numbers
    path = sorted(folder.glob("*/*.png"))[numbers[0]]
    path.write_bytes(path.read_bytes()[:40])
    dataset = data.load(config)
    data.verify(dataset, test=False)
    with pytest.raises(UserError, match="cannot read the image"):
        data.verify(dataset)


def test_labels_of_a_split_in_memory_are_looked_at_too(config, folder):
    config.name, config.data_dir = "digits", ""
    config.load_size = 0
    dataset = data.load(config)
    read = dataset.test.read
    object.__setattr__(
        dataset.test, "read", lambda numbers: (read(numbers)[0], read(numbers)[1] + 1)
    )
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.9, got 1\.\.10"):
        data.verify(dataset)


def test_folders_that_cannot_be_listed_and_owners_without_a_name(
    folder, config, monkeypatch
):
    for path in folder.glob("ant/*"):
        os.chown(path, 54321, 54321)
    data.verify(data.load(config))
    (folder / "bee" / "closed").mkdir()
    scandir = os.scandir

    def closed(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", closed)
    with pytest.raises(UserError, match=r"bee/closed' cannot be listed \(Permission"):
        data.load(config)


def test_labels_out_of_range_are_found_with_noise_too(config):
    config.name, config.data_dir, config.load_size = "digits", "", 0
    dataset = data.load(config)
    read = dataset.train.read
    source = dataclasses.replace(
        dataset.train, read=lambda numbers: (read(numbers)[0], read(numbers)[1] * 0 - 1)
    )
    noisy = with_noise(dataclasses.replace(dataset, train=source), 0.3).train
    with pytest.raises(UserError, match=r"labels must lie in 0\.\.9, got -1"):
        noisy.take(np.arange(50))


def test_the_home_folder(folder, config, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    config.data_dir = f"~/{folder.name}"
    assert data.load(config).class_names == tuple(LEVELS)
    assert data.at_hand(config)
    config.data_dir = "~/nowhere"
    assert not data.at_hand(config)
    with pytest.raises(UserError, match=f"no folder '{folder.parent}/nowhere'"):
        data.load(config)
