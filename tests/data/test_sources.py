import io
import socket
import time

import numpy as np
import pytest
from PIL import Image

from introspect_jax import data
from introspect_jax.config import default_config
from introspect_jax.data import tfds_reader
from introspect_jax.data.images import decode
from introspect_jax.errors import UserError


@pytest.fixture
def config():
    return default_config().data


def test_digits_are_real_stratified_and_the_same_for_everyone(config):
    config.name = "digits"
    dataset = data.load(config)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [
        1293,
        144,
        360,
    ]
    assert dataset.image_shape == (8, 8, 1)
    numbers = [s.numbers for s in (dataset.train, dataset.validation, dataset.test)]
    assert len(np.unique(np.concatenate(numbers))) == 1797
    counts = np.bincount(dataset.test.take(np.arange(360))[1])
    assert counts.min() >= 35
    assert counts.max() <= 37
    images, _ = dataset.train.take(np.arange(1293))
    assert images.dtype == np.uint8
    assert images.max() == 255
    config.validation_fraction = 0.0
    without = data.load(config)
    np.testing.assert_array_equal(without.test.numbers, dataset.test.numbers)
    assert len(without.validation) == 0


def image_bytes(array, kind="PNG", mode=None):
    buffer = io.BytesIO()
    Image.fromarray(array, mode=mode).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Three classes of ten images, each of one grey level, of many sizes and kinds."""
    generator = np.random.RandomState(0)
    for label, name in enumerate(["ant", "bee", "cat"]):
        (tmp_path / name).mkdir()
        for i in range(10):
            height, width = generator.randint(9, 30, size=2)
            image = np.full((height, width, 3), 40 + 80 * label, np.uint8)
            kind, suffix = [("PNG", "png"), ("JPEG", "JPG")][i % 2]
            (tmp_path / name / f"{i}.{suffix}").write_bytes(image_bytes(image, kind))
    (tmp_path / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / ".cache").mkdir()
    return tmp_path


def test_folder(folder, config):
    config.name, config.data_dir, config.load_size = "folder", str(folder), 8
    dataset = data.load(config)
    assert dataset.class_names == ("ant", "bee", "cat")
    assert len(dataset.train) + len(dataset.validation) == 24
    images, labels = dataset.test.take(np.arange(6))
    assert images.shape == (6, 8, 8, 3)
    np.testing.assert_array_equal(np.bincount(labels), [2, 2, 2])
    assert (
        np.abs(images.astype(int) - (40 + 80 * labels)[:, None, None, None]).max() < 3
    )


def test_folder_errors(folder, config):
    config.name = "folder"
    with pytest.raises(UserError, match=r"needs data\.data_dir"):
        data.load(config)
    config.data_dir = str(folder)
    with pytest.raises(UserError, match=r"needs data\.load_size"):
        data.load(config)
    config.load_size = 8
    broken = folder / "bee" / "0.png"
    broken.write_bytes(broken.read_bytes()[:40])
    dataset = data.load(config)

    def read_everything():
        for split in (dataset.train, dataset.validation, dataset.test):
            split.take(np.arange(len(split)))

    with pytest.raises(UserError, match=r"cannot read the image .*bee/0\.png"):
        read_everything()
    (folder / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty' has no images"):
        data.load(config)
    config.data_dir = str(folder / "nowhere")
    with pytest.raises(UserError, match="no folder"):
        data.load(config)


def test_more_than_the_machine_holds_is_said(folder, config, monkeypatch):
    monkeypatch.setattr(data, "host_bytes", lambda: 1000.0)
    config.name, config.data_dir, config.load_size = "folder", str(folder), 8
    with pytest.raises(UserError, match=r"lower data\.device_megabytes"):
        data.load(config)
    config.device_megabytes = 0
    assert len(data.load(config).test) == 6


def test_images_of_every_kind_are_decoded():
    colours = np.random.RandomState(0).randint(0, 256, (6, 4, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(image_bytes(colours), 3), colours)
    grey = colours[..., 0]
    np.testing.assert_array_equal(decode(image_bytes(grey), 1)[..., 0], grey)
    np.testing.assert_array_equal(
        decode(image_bytes(grey), 3), np.repeat(grey[..., None], 3, -1)
    )
    buffer = io.BytesIO()
    Image.fromarray(colours).convert("P").save(buffer, "PNG")
    assert decode(buffer.getvalue(), 3).shape == (6, 4, 3)
    # The centre, not the whole; averaged, so that one bright pixel is not lost.
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, :2], wide[1, 3] = 255, 160
    small = decode(image_bytes(wide), 3, (2, 2))
    assert small.shape == (2, 2, 3)
    assert 20 < small[0, 0, 0] < 60
    # Of another shape: the largest centred part that has it.
    image = np.arange(12 * 8, dtype=np.uint8).reshape(12, 8)
    for size, part in (((4, 8), image[4:8]), ((12, 2), image[:, 3:5])):
        read = decode(image_bytes(image), 1, size)
        np.testing.assert_array_equal(read[..., 0], part)
    assert decode(image_bytes(wide), 3, (32, 48)).shape == (32, 48, 3)


def test_unprepared_data_are_reported_at_once(tmp_path, config, monkeypatch):
    monkeypatch.setattr(tfds_reader, "_NETWORK_PROBE", "http://127.0.0.1:9")
    config.name, config.data_dir = "mnist", str(tmp_path)
    began = time.monotonic()
    with pytest.raises(UserError) as caught:
        data.load(config)
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert str(tmp_path) in message
    assert ".[prepare]" in message
    assert "\n" not in message


def test_unknown_data_set(tmp_path, config):
    config.name, config.data_dir = "cifar11", str(tmp_path)
    with pytest.raises(UserError, match="did you mean 'cifar10"):
        data.load(config)


def test_a_network_that_hangs_is_given_up(monkeypatch):
    """As a name look-up does, which knows no time-out."""
    asked = []

    def hang(*given, **more):
        asked.append(given)
        time.sleep(5)
        raise socket.gaierror

    monkeypatch.setattr(tfds_reader, "_NETWORK_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    began = time.monotonic()
    assert not tfds_reader._network()
    assert time.monotonic() - began < 2
    assert asked


def test_fewer_examples_leave_validation_and_test_as_they_are(config):
    config.name = "digits"
    whole = data.load(config)
    config.train_examples = 300
    some = data.load(config)
    assert len(some.train) == 300
    for split in ("validation", "test"):
        for before, after in zip(
            *(getattr(d, split).take(np.arange(100)) for d in (whole, some)),
            strict=True,
        ):
            np.testing.assert_array_equal(before, after)
    images = {image.tobytes() for image in whole.train.take(np.arange(1293))[0]}
    assert {i.tobytes() for i in some.train.take(np.arange(300))[0]} <= images
    again = data.load(config).train.take(np.arange(300))[1]
    np.testing.assert_array_equal(again, some.train.take(np.arange(300))[1])
    config.train_examples = 1294
    with pytest.raises(UserError, match="1294, more than the 1293 training examples"):
        data.load(config)


def test_label_noise_is_symmetric_nested_and_not_in_the_test(config):
    config.name = "digits"
    labels = {}
    for share in (0.0, 0.2, 0.4):
        config.label_noise = share
        dataset = data.load(config)
        labels[share] = [
            split.take(np.arange(len(split)))[1]
            for split in (dataset.train, dataset.validation, dataset.test)
        ]
    clean = labels[0.0]
    for share in (0.2, 0.4):
        for split in (0, 1):
            wrong = labels[share][split] != clean[split]
            assert wrong.mean() == pytest.approx(share, abs=0.09 if split else 0.03)
        np.testing.assert_array_equal(labels[share][2], clean[2])
    wrong = labels[0.2][0] != clean[0]
    np.testing.assert_array_equal(labels[0.4][0][wrong], labels[0.2][0][wrong])
    # Every other class is as likely.
    wrong = labels[0.4][0] != clean[0]
    shifts = (labels[0.4][0] - clean[0])[wrong] % 10
    counts = np.bincount(shifts, minlength=10)
    assert counts[0] == 0
    assert counts[1:].min() > 0.6 * wrong.sum() / 9
    assert labels[0.4][0].dtype == np.int32
    # An image has the same label however many are taken: for a teacher that has all.
    whole = dataset.train.take(np.arange(len(dataset.train)))
    config.train_examples = 300
    some = data.load(config)
    np.testing.assert_array_equal(
        some.validation.take(np.arange(144))[1], labels[0.4][1]
    )
    known = {image.tobytes(): label for image, label in zip(*whole, strict=True)}
    images, found = some.train.take(np.arange(300))
    assert [known[image.tobytes()] for image in images] == list(found)
