"""Augmentation on the device, inside the training step.

Crop, flip and cutout of an example depend on its own key alone, so the result does not
depend on how a batch is cut or on the number of devices. Mixup and cutmix pair the
examples of the whole batch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from introspect_jax.errors import UserError

ALTERNATING = "alternating"


def augment(
    images: jax.Array,
    label_probs: jax.Array,
    indices: jax.Array,
    key: jax.Array,
    config,
    size: tuple[int, int],
    *,
    flip_state: Callable[[], tuple[jax.Array, jax.Array | int]],
) -> tuple[jax.Array, jax.Array]:
    """A training batch, varied as `config.data.augment` says.

    Args:
      images: normalised, `[batch, h', w', c]`; what a crop adds is 0, the mean colour.
      label_probs: `[batch, classes]`.
      indices: `[batch]`, each example's position in the data set.
      key: of this step.
      config: `crop_padding` (pixels), `flip` (True, False or "alternating", see
        `alternating_flip`), `cutout` (side in pixels), `mixup` and `cutmix` (alpha of
        the beta distribution); 0 is off. With both of the last two each batch takes
        one or the other.
      size: `(h, w)` of the result.
      flip_state: gives what alternating flips depend on: a key that is the same in
        all steps, and the epoch of this step, from 0. Without them nothing is computed.

    Returns:
      Images `[batch, h, w, c]`, label probabilities `[batch, classes]`.
    """
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(indices)
    alternated = None
    if config.flip == ALTERNATING:
        alternated = alternating_flip(indices, *flip_state())

    def one(image, key, flipped):
        crop_key, flip_key, cutout_key = jax.random.split(key, 3)
        image = random_crop(image, crop_key, config.crop_padding, size)
        if config.flip:
            if flipped is None:
                flipped = jax.random.bernoulli(flip_key)
            image = jnp.where(flipped, image[:, ::-1, :], image)
        if config.cutout:
            image = cutout(image, cutout_key, config.cutout)
        return image

    images = jax.vmap(one)(images, keys, alternated)
    # Beyond any index, so that no example shares this key.
    pair_key = jax.random.fold_in(key, 2**31 - 1)
    choice_key, lam_key, box_key = jax.random.split(pair_key, 3)
    if config.mixup and config.cutmix:
        mixed, mixed_probs = mixup(images, label_probs, lam_key, config.mixup)
        cut, cut_probs = cutmix(images, label_probs, lam_key, box_key, config.cutmix)
        use_mixup = jax.random.bernoulli(choice_key)
        return (
            jnp.where(use_mixup, mixed, cut),
            jnp.where(use_mixup, mixed_probs, cut_probs),
        )
    if config.mixup:
        return mixup(images, label_probs, lam_key, config.mixup)
    if config.cutmix:
        return cutmix(images, label_probs, lam_key, box_key, config.cutmix)
    return images, label_probs


def alternating_flip(
    indices: jax.Array, run_key: jax.Array, epoch: jax.Array | int
) -> jax.Array:
    """Which examples are flipped, bool `[batch]` (Jordan 2024, arXiv 2404.00498).

    Half of them at random in the first epoch, and each every other epoch from then on:
    two successive epochs show both sides of every image, where independent flips would
    show half of the images twice alike.

    Args:
      indices: `[batch]`, each example's position in the data set.
      run_key: the same in all steps.
      epoch: from 0.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(run_key, indices)
    first = jax.vmap(jax.random.bernoulli)(keys)
    return first ^ (epoch % 2 == 1)


def random_crop(
    image: jax.Array, key: jax.Array, padding: int, size: tuple[int, int]
) -> jax.Array:
    """`(h, w)` out of an image `[h', w', c]` with `padding` zeros on every side."""
    padded = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
    slack = jnp.array([padded.shape[0] - size[0], padded.shape[1] - size[1]])
    top, left = jax.random.randint(key, (2,), 0, slack + 1)
    return jax.lax.dynamic_slice(padded, (top, left, 0), (*size, image.shape[-1]))


def _inside(extent: int, center: jax.Array, half: jax.Array | float) -> jax.Array:
    """Which of `extent` pixels lie within `half` of the centre (between pixels)."""
    return jnp.abs(jnp.arange(extent) + 0.5 - center) < half


def cutout(image: jax.Array, key: jax.Array, side: int) -> jax.Array:
    """Zeros in a square around a random pixel (DeVries and Taylor 2017)."""
    height, width, _ = image.shape
    rows_key, columns_key = jax.random.split(key)
    row = jax.random.randint(rows_key, (), 0, height)
    column = jax.random.randint(columns_key, (), 0, width)
    # An even side has its centre between two pixels.
    offset = 0.5 * (side % 2)
    rows = _inside(height, row + offset, side / 2)
    columns = _inside(width, column + offset, side / 2)
    return jnp.where((rows[:, None] & columns[None, :])[..., None], 0.0, image)


def mixup(
    images: jax.Array, label_probs: jax.Array, key: jax.Array, alpha: float
) -> tuple[jax.Array, jax.Array]:
    """Weighted means of an example and its neighbour (Zhang et al. 2018)."""
    share = jax.random.beta(key, alpha, alpha)
    return (
        share * images + (1 - share) * jnp.roll(images, 1, axis=0),
        share * label_probs + (1 - share) * jnp.roll(label_probs, 1, axis=0),
    )


def cutmix(
    images: jax.Array,
    label_probs: jax.Array,
    share_key: jax.Array,
    box_key: jax.Array,
    alpha: float,
) -> tuple[jax.Array, jax.Array]:
    """A box of the neighbour's image, labels by area (Yun et al. 2019)."""
    height, width = images.shape[1:3]
    side = jnp.sqrt(1 - jax.random.beta(share_key, alpha, alpha))
    row, column = jax.random.uniform(box_key, (2,))
    rows = _inside(height, row * height, side * height / 2)
    columns = _inside(width, column * width, side * width / 2)
    box = (rows[:, None] & columns[None, :])[..., None]
    share = 1 - box.mean()
    return (
        jnp.where(box, jnp.roll(images, 1, axis=0), images),
        share * label_probs + (1 - share) * jnp.roll(label_probs, 1, axis=0),
    )


def check_flip(config) -> None:
    """Raises a UserError for a `config.data.augment.flip` that is none."""
    if not (isinstance(config.flip, bool) or config.flip == ALTERNATING):
        raise UserError(
            f"data.augment.flip must be True, False or {ALTERNATING!r}, got "
            f"{config.flip!r}"
        )


def check(config, size: tuple[int, int]) -> None:
    """Raises a UserError for a `config.data.augment` out of range, for images of that
    size."""
    for name in ("crop_padding", "cutout", "mixup", "cutmix"):
        if config[name] < 0:
            raise UserError(
                f"data.augment.{name} must not be negative, got {config[name]}"
            )
    for name in ("crop_padding", "cutout"):
        if config[name] > min(size):
            raise UserError(
                f"data.augment.{name} is {config[name]}, larger than the images {size}"
            )
