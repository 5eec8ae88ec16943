import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from introspect_jax.data import augment as aug
from introspect_jax.errors import UserError

KEY, RUN_KEY = jax.random.key(5), jax.random.key(6)


def options(**changes):
    return ConfigDict(
        {"crop_padding": 0, "flip": False, "cutout": 0, "mixup": 0.0, "cutmix": 0.0}
        | changes
    )


EACH = options(crop_padding=2, flip=True, cutout=3)
ALTERNATING = options(crop_padding=2, flip="alternating", cutout=3)
ALL = options(crop_padding=2, flip=True, cutout=3, mixup=0.4, cutmix=1.0)


def varied(images, labels, index, config, epoch=3, run_key=RUN_KEY):
    """`augment` in one program: one by one, its many operations compile slowly."""

    @jax.jit
    def run(*batch):
        return aug.augment(
            *batch, KEY, config, (8, 8), flip_state=lambda: (run_key, epoch)
        )

    return run(images, labels, index)


def sides(count, epoch, **more):
    """Which of the examples 0 to count - 1 are turned, bool `[count]`."""
    image = jnp.arange(8 * 8 * 1.0).reshape(1, 8, 8, 1)
    images = jnp.broadcast_to(image, (count, 8, 8, 1))
    labels, index = jnp.ones((count, 2)), jnp.arange(count)
    config = options(flip="alternating")
    found, _ = varied(images, labels, index, config, epoch, **more)
    turned = np.all(np.asarray(found) == np.asarray(image)[:, :, ::-1], (1, 2, 3))
    same = np.all(np.asarray(found) == np.asarray(image), (1, 2, 3))
    assert np.all(turned ^ same)
    return turned


@pytest.fixture
def batch():
    images = jax.random.uniform(jax.random.key(0), (16, 8, 8, 3), minval=0.1)
    labels = jax.nn.one_hot(jnp.arange(16) % 8, 8)
    return images, labels, jnp.arange(100, 116)


def test_off_changes_nothing(batch):
    images, labels, index = batch
    found, probs = varied(images, labels, index, options())
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(probs, labels)


@pytest.mark.parametrize("config", [EACH, ALTERNATING], ids=["random", "alternating"])
def test_does_not_depend_on_how_the_batch_is_cut(batch, config):
    images, labels, index = batch
    whole, _ = varied(images, labels, index, config)
    order = np.random.RandomState(0).permutation(16)
    for part in (order[:8], order[8:]):
        found, _ = varied(images[part], labels[part], index[part], config)
        np.testing.assert_array_equal(found, whole[part])


def test_does_not_depend_on_the_number_of_devices(batch):
    wanted = varied(*batch, ALL)
    mesh = Mesh(np.asarray(jax.devices()), ("data",))
    divided = NamedSharding(mesh, PartitionSpec("data"))
    found = varied(*jax.device_put(batch, divided), ALL)
    assert len(found[0].sharding.device_set) == 8
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


def test_crops_are_windows_of_the_padded_image_and_reach_every_corner():
    image = jnp.arange(1.0, 17.0).reshape(4, 4, 1)
    padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)))
    windows = [padded[i : i + 4, j : j + 4] for i in range(3) for j in range(3)]
    keys = jax.random.split(KEY, 200)
    crops = np.asarray(jax.vmap(lambda k: aug.random_crop(image, k, 1, (4, 4)))(keys))
    found = [
        [n for n, w in enumerate(windows) if np.array_equal(w, crop)] for crop in crops
    ]
    assert all(len(match) == 1 for match in found)
    assert {match[0] for match in found} == set(range(9))


def test_crops_smaller_than_the_image():
    image = jnp.arange(25.0).reshape(5, 5, 1)
    crop = aug.random_crop(image, KEY, 0, (3, 2))
    assert crop.shape == (3, 2, 1)
    np.testing.assert_array_equal(crop[1] - crop[0], 5)


def test_flip_happens_half_of_the_time(batch):
    images, _, _ = batch
    many = jnp.broadcast_to(images[:1], (400, 8, 8, 3))
    found, _ = varied(many, jnp.ones((400, 8)), jnp.arange(400), options(flip=True))
    flipped = np.all(np.asarray(found) == np.asarray(many)[:, :, ::-1], axis=(1, 2, 3))
    same = np.all(np.asarray(found) == np.asarray(many), axis=(1, 2, 3))
    assert np.all(flipped ^ same)
    assert 150 < flipped.sum() < 250


def test_alternating_flips_show_both_sides_in_any_two_successive_epochs():
    epochs = np.array([sides(400, epoch) for epoch in range(4)])
    assert 150 < epochs[0].sum() < 250
    np.testing.assert_array_equal(epochs[1:], ~epochs[:-1])


def test_alternating_flips_are_of_the_seed():
    other = sides(400, 0, run_key=jax.random.key(7))
    np.testing.assert_array_equal(sides(400, 0), sides(400, 0))
    assert 150 < (sides(400, 0) ^ other).sum() < 250


def test_alternating_flips_go_by_the_example_not_by_its_place():
    order = np.random.RandomState(0).permutation(400)
    found = aug.alternating_flip(jnp.asarray(order), RUN_KEY, 0)
    np.testing.assert_array_equal(found, sides(400, 0)[order])


@pytest.mark.parametrize("side", [2, 3, 4])
def test_cutout_is_a_square(side):
    image = jnp.ones((9, 9, 2))
    keys = jax.random.split(KEY, 100)
    holes = 81 - np.asarray(
        jax.vmap(lambda k: aug.cutout(image, k, side))(keys)[..., 0]
    ).sum((1, 2))
    assert holes.max() == side**2  # smaller where it leaves the image
    assert np.mean(holes == side**2) > 0.3


def test_mixup_mixes_images_and_labels_alike(batch):
    images, labels, _ = batch
    found, probs = aug.mixup(images, labels, KEY, 1.0)
    share = probs[0, 0]
    assert 0 < share < 1
    np.testing.assert_allclose(
        found, share * images + (1 - share) * jnp.roll(images, 1, 0), rtol=1e-5
    )
    np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)


def test_cutmix_labels_follow_the_area(batch):
    images, labels, _ = batch
    for seed in range(5):
        keys = jax.random.split(jax.random.key(seed))
        found, probs = aug.cutmix(images, labels, *keys, 1.0)
        kept = np.mean(np.asarray(found == images)[..., 0], axis=(1, 2))
        np.testing.assert_allclose(
            probs[np.arange(16), np.arange(16) % 8], kept, atol=1e-6
        )
        np.testing.assert_allclose(probs.sum(-1), 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"mixup": -1.0}, r"data\.augment\.mixup must not be negative"),
        ({"cutout": 9}, "larger than"),
    ],
)
def test_bad_options(changes, says):
    with pytest.raises(UserError, match=says):
        aug.check(options(**changes), (8, 8))


@pytest.mark.parametrize("flip", [None, 1, 0, "alternate", "", (True,)])
def test_bad_flips(flip):
    with pytest.raises(UserError, match="must be True, False or 'alternating', got"):
        aug.check_flip(options(flip=flip))
    for right in (True, False, "alternating"):
        aug.check_flip(options(flip=right))
