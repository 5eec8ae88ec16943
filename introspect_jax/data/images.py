"""Images of any kind and size to uint8 arrays of one shape."""

import numpy as np
from PIL import Image


def fit(image: Image.Image | np.ndarray, size: int) -> np.ndarray:
    """Shorter side to `size`, then the central square: uint8 `[size, size, c]`.

    Args:
      image: a PIL image, or uint8 `[h, w, c]` with 1 or 3 channels.
      size: in pixels. Shrinking averages (no aliasing).
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    width, height = image.size
    if (width, height) != (size, size):
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        image = image.resize(
            (size, size),
            Image.Resampling.BILINEAR,
            box=(left, top, left + side, top + side),
        )
    array = np.asarray(image, np.uint8)
    return array[..., None] if array.ndim == 2 else array
