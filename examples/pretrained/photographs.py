"""Photographs that scikit-learn and scikit-image contain, and may be shown.

    python examples/pretrained/photographs.py --output=FOLDER

writes them as PNG files in their own sizes, for `launch/explain.py --images=FOLDER`.
Nothing is downloaded.
"""

import argparse
import importlib.resources
import pathlib
from typing import NamedTuple

import numpy as np
from PIL import Image

from introspect_jax.data.images import fit


class Photograph(NamedTuple):
    """A photograph in a package.

    Attributes:
      name: Short name.
      package: Its distribution.
      file: Its place in the installed package, which the first part names.
      licence: The licence that the package states, and the photographer if it says so.
    """

    name: str
    package: str
    file: str
    licence: str


def _skimage(file: str, licence: str) -> Photograph:
    name = file.partition(".")[0]
    return Photograph(name, "scikit-image", f"skimage/data/{file}", licence)


def _sklearn(file: str, licence: str) -> Photograph:
    name = file.partition(".")[0]
    return Photograph(name, "scikit-learn", f"sklearn/datasets/images/{file}", licence)


# Left out is the motorcycle of scikit-image: the package states no licence.
PHOTOGRAPHS = (
    _skimage("chelsea.png", "CC0, Stefan van der Walt"),
    _skimage("coffee.png", "CC0, Rachel Michetti"),
    _skimage("astronaut.png", "public domain, NASA"),
    _skimage("rocket.jpg", "public domain, SpaceX"),
    _skimage("camera.png", "CC0, Lav Varshney"),  # grey levels
    _sklearn("flower.jpg", "CC BY 2.0, flickr.com/photos/vultilion"),
    _sklearn("china.jpg", "CC BY 2.0, flickr.com/photos/danielbuechele"),
)


def open_image(photograph: Photograph) -> Image.Image:
    """Opens a photograph in its own size, as RGB.

    Raises:
      SystemExit: Its package is not installed.
    """
    package, _, inside = photograph.file.partition("/")
    try:
        file = importlib.resources.files(package) / inside
    except ModuleNotFoundError:
        raise SystemExit(
            f'{photograph.package} is missing; pip install -e ".[pretrained]"'
        ) from None
    with file.open("rb") as opened, Image.open(opened) as image:
        return image.convert("RGB")


def read(size: int = 224) -> np.ndarray:
    """Reads all photographs, the largest centred square of each.

    Args:
      size: Side of the result in pixels; bicubic, which averages where it shrinks.

    Returns:
      uint8 `[n, size, size, 3]`, in the order of `PHOTOGRAPHS`, the same pixels that
      `launch/explain.py --resize=bicubic` reads.
    """
    images = [fit(open_image(p), (size, size), "bicubic") for p in PHOTOGRAPHS]
    return np.stack([np.asarray(image) for image in images])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, required=True)
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)
    for photograph in PHOTOGRAPHS:
        image = open_image(photograph)
        image.save(output / f"{photograph.name}.png")
        width, height = image.size
        print(
            f"{photograph.name}.png: {width}x{height}, {photograph.package}, "
            f"{photograph.licence}"
        )


if __name__ == "__main__":
    main()
