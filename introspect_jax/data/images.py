"""Encoded images of any kind and size to uint8 arrays of one shape."""

import io

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Those that TFDS stores too. Of the others that Pillow knows some start programs (EPS:
# Ghostscript), whatever the name of the file says.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP")


def decode(encoded: bytes, channels: int, size: int = 0) -> np.ndarray:
    """A PNG or JPEG as uint8 `[h, w, channels]`.

    Args:
      encoded: the file's content.
      channels: 3 (RGB) or 1 (grey levels).
      size: 0 keeps the image's own, otherwise see `fit`.

    Raises:
      OSError: not an image, damaged, or unreasonably large.
    """
    try:
        with Image.open(io.BytesIO(encoded), formats=_FORMATS) as image:
            upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I"):  # 16 bits, which `convert` would cut off
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        converted = upright.convert("RGB" if channels == 3 else "L")
    except UnidentifiedImageError as error:
        raise OSError("it is not a PNG or JPEG, or it is empty or damaged") from error
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    if size:
        converted = fit(converted, size)
    array = np.asarray(converted, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def fit(image: Image.Image, size: int) -> Image.Image:
    """The central square at `size` pixels; shrinking averages, without aliasing."""
    if image.size == (size, size):
        return image
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
    )
