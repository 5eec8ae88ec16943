"""Decodes images of many formats and sizes to uint8 arrays of one shape."""

import io
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

# Those that TFDS stores too. Of the others that Pillow knows some start programs (EPS:
# Ghostscript), whatever the name of the file says.
_FORMATS = ("PNG", "JPEG", "GIF", "BMP")
SUFFIXES = (".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".gif", ".bmp")
_NO_IMAGE = "it is not a PNG, JPEG, GIF or BMP, or it is empty or damaged"


# How images are resized: name -> filter of Pillow.
RESIZE = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}


def decode(
    encoded: bytes,
    channels: int,
    size: tuple[int, int] | None = None,
    resize: str = "bilinear",
) -> np.ndarray:
    """Decodes an image to uint8 `[h, w, channels]`; of an animation the first frame.

    Args:
      encoded: the file's content.
      channels: 3 (RGB) or 1 (grey levels).
      size: `(h, w)`, see `fit`; None keeps the image's own.
      resize: a name of `RESIZE`.

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
        raise OSError(_NO_IMAGE) from error
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error
    if size:
        converted = fit(converted, size, resize)
    array = np.asarray(converted, np.uint8)
    return array[..., None] if array.ndim == 2 else array


def check_header(file: BinaryIO, length: int) -> None:
    """Raises an OSError if the first bytes of a file are not those of an image.

    Args:
      file: Opened for reading.
      length: Of the file in bytes.
    """
    if not length:
        raise OSError("it is empty")
    try:
        with Image.open(file, formats=_FORMATS):
            pass  # reads the header and no pixels
    except UnidentifiedImageError as error:
        raise OSError(_NO_IMAGE) from error
    except (SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise OSError(str(error)) from error


def fit(
    image: Image.Image, size: tuple[int, int], resize: str = "bilinear"
) -> Image.Image:
    """Crops the largest centred region with the aspect of `size`, `(h, w)`, and resizes
    it with a filter of `RESIZE`; shrinking averages pixels."""
    height, width = size
    if image.size == (width, height):
        return image
    box_width: float = image.width
    box_height: float = image.height
    # What is taken of the image, as wide or as high as it is.
    if image.width * height <= image.height * width:
        box_height = image.width * height / width
    else:
        box_width = image.height * width / height
    left, top = (image.width - box_width) / 2, (image.height - box_height) / 2
    return image.resize(
        (width, height),
        RESIZE[resize],
        box=(left, top, left + box_width, top + box_height),
    )
