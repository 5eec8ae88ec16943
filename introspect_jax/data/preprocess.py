"""Converts pixels as read to the inputs of a network."""

import dataclasses
from collections.abc import Sequence
from typing import TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.errors import UserError

ArrayT = TypeVar("ArrayT", bound=jax.Array | np.ndarray)


@dataclasses.dataclass(frozen=True)
class Preprocess:
    """Crops the centre and normalises: the inputs of a network in evaluation.

    Attributes:
      size: `(h, w)` that the network sees.
      mean: Of pixels in [0, 1] or of float images, for all channels or each.
      std: The same.
    """

    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: np.ndarray | jax.Array) -> jax.Array:
        """Inputs `[n, h, w, c]`, float32, of pixels `[n, h', w', c]` as read."""
        return self.normalize(self.crop(pixels))

    def crop(self, pixels: ArrayT) -> ArrayT:
        """The part `[n, h, w, c]` of pixels `[n, h', w', c]` that is seen."""
        return center_crop(pixels, self.size)

    def normalize(self, pixels: np.ndarray | jax.Array) -> jax.Array:
        """As `normalize`, by mean and standard deviation of the data."""
        return normalize(pixels, self.mean, self.std)


def make_preprocess(config, image_shape: tuple[int, int, int]) -> Preprocess:
    """The preprocessing of `config.data` for images `(h, w, c)`.

    Raises:
      UserError: Sizes or numbers of channels that do not fit.
    """
    size = (config.image_size,) * 2 if config.image_size else image_shape[:2]
    if size[0] > image_shape[0] or size[1] > image_shape[1]:
        raise UserError(
            f"data.image_size is {config.image_size}, larger than the images "
            f"{image_shape[:2]}; set data.load_size to at least as much"
        )
    for name in ("mean", "std"):
        if len(config[name]) not in (1, image_shape[2]):
            raise UserError(
                f"data.{name} has {len(config[name])} values for {image_shape[2]} "
                "channels; give one for all or one each"
            )
    if min(config.std) <= 0:
        raise UserError(f"data.std must be above 0, got {tuple(config.std)}")
    return Preprocess((size[0], size[1]), tuple(config.mean), tuple(config.std))


def normalize(
    images: jax.Array | np.ndarray, mean: Sequence[float], std: Sequence[float]
) -> jax.Array:
    """uint8 `[..., c]` to float32 `(x / 255 - mean) / std`, per channel or for all;
    floats, in their own units, to `(x - mean) / std`."""
    scale = 255 if images.dtype == np.uint8 else None
    pixels = jnp.asarray(images, jnp.float32)
    if scale:
        pixels = pixels / scale
    return (pixels - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def center_crop(images: ArrayT, size: tuple[int, int]) -> ArrayT:
    """The central `(h, w)` of `[batch, h', w', c]`."""
    top, left = (images.shape[1] - size[0]) // 2, (images.shape[2] - size[1]) // 2
    return cast(ArrayT, images[:, top : top + size[0], left : left + size[1], :])


def displayed(pixels: np.ndarray) -> np.ndarray:
    """uint8 for pictures; floats of any range are scaled, smallest to largest."""
    if pixels.dtype == np.uint8:
        return pixels
    low, high = float(pixels.min()), float(pixels.max())
    return np.round((pixels - low) / ((high - low) or 1.0) * 255).astype(np.uint8)
