"""Strange images, and what is expected of each."""

import io
import os
import pathlib
import struct
import zlib
from collections.abc import Callable

import numpy as np
from PIL import Image

SIZE, PLAIN = 12, 6
RED, BLUE = (220, 40, 40), (40, 40, 220)
PIXELS, REFUSED, LEFT_OUT = "read", "refused", "left out"
TOLERANCE = 45  # JPEG, and palettes
# A transposition that puts an image as EXIF says it is stored, for orientations 2 to 8.
STORED = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}


def corner(width: int = 24, height: int = 24) -> Image.Image:
    """Blue, with a red corner at the top left."""
    image = Image.new("RGB", (width, height), BLUE)
    image.paste(RED, (0, 0, width // 2, height // 2))
    return image


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    check = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


def png(array: np.ndarray, depth: int, colour: int, shape=None, extra=b"") -> bytes:
    """A PNG of kinds that Pillow does not write.

    Args:
      array: samples `[h, w, channels]`, below 2**depth.
      depth: bits of a sample.
      colour: the PNG's colour type.
      shape: `(h, w)` that the header claims, by default that of the array.
      extra: chunks before the pixels.
    """
    height, width = shape or array.shape[:2]
    rows = b""
    for row in array.reshape(len(array), -1):
        if depth == 16:
            packed = row.astype(">u2").tobytes()
        else:
            bits = (row[:, None] >> np.arange(depth)[::-1]) & 1
            packed = np.packbits(bits.astype(np.uint8).ravel()).tobytes()
        rows += b"\0" + packed
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = [chunk(b"IHDR", header), extra]
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def exif(orientation: int) -> bytes:
    found = Image.Exif()
    found[0x0112] = orientation
    return found.tobytes()


def is_corner(image: np.ndarray) -> bool:
    """Whether the image is that of `corner`, away from the border of its colours."""
    quarter = SIZE // 4
    red = image[:quarter, :quarter].reshape(-1, 3).astype(int)
    blue = np.concatenate(
        [image[-quarter:].reshape(-1, 3), image[:, -quarter:].reshape(-1, 3)]
    ).astype(int)
    return bool(
        np.abs(red - RED).max() <= TOLERANCE and np.abs(blue - BLUE).max() <= TOLERANCE
    )


def is_grey_corner(image: np.ndarray) -> bool:
    """The same in grey levels: a bright corner on black, all channels equal."""
    quarter = SIZE // 4
    bright, dark = image[:quarter, :quarter], image[-quarter:]
    equal = (image == image[..., :1]).all()
    return bool(equal and bright.min() > 200 and dark.max() < 55)


def plain(colour) -> Callable[[np.ndarray], bool]:
    """Whether all pixels are of this colour, nearly."""
    return lambda image: bool(np.abs(image.astype(int) - colour).max() <= 8)


def grey() -> Image.Image:
    image = Image.new("L", (24, 24), 0)
    image.paste(255, (0, 0, 12, 12))
    return image


def read_cases() -> dict[str, tuple[str, bytes, Callable[[np.ndarray], bool]]]:
    """Case -> file name, content, and what its pixels must be."""
    image = corner()
    alpha = image.convert("RGBA")
    alpha.putalpha(128)
    samples = np.asarray(image, np.uint16)
    dim = np.asarray(grey(), np.uint16)[..., None]
    wide = np.zeros((24, 24, 1), np.uint16) + 65535
    tall = Image.new("RGB", (20, 300), BLUE)
    tall.paste(RED, (0, 0, 20, 100))
    cases = {
        "PNG": ("x.png", encoded(image), is_corner),
        "JPEG": ("x.jpg", encoded(image, "JPEG", quality=95), is_corner),
        "progressive JPEG": (
            "x.jpg",
            encoded(image, "JPEG", quality=95, progressive=True),
            is_corner,
        ),
        "palette": ("x.png", encoded(image.quantize(8)), is_corner),
        "palette, transparent": (
            "x.png",
            encoded(image.quantize(8), transparency=bytes([255, 0, 128])),
            is_corner,
        ),
        "grey levels": ("x.png", encoded(grey()), is_grey_corner),
        "grey JPEG": ("x.jpg", encoded(grey(), "JPEG", quality=95), is_grey_corner),
        "grey and alpha": ("x.png", encoded(grey().convert("LA")), is_grey_corner),
        "alpha": ("x.png", encoded(alpha), is_corner),
        "CMYK JPEG": (
            "x.jpg",
            encoded(image.convert("CMYK"), "JPEG", quality=95),
            is_corner,
        ),
        "1 bit": ("x.png", encoded(grey().convert("1")), is_grey_corner),
        "2 bits": ("x.png", png(dim // 85, 2, 0), is_grey_corner),
        "4 bits": ("x.png", png(dim // 17, 4, 0), is_grey_corner),
        "16 bits, grey": ("x.png", png(dim * 257, 16, 0), is_grey_corner),
        "16 bits, bright": ("x.png", png(wide, 16, 0), plain(255)),
        "16 bits, middle": ("x.png", png(wide // 2, 16, 0), plain(127)),
        "16 bits, grey and alpha": (
            "x.png",
            png(np.concatenate([dim * 257, wide], -1), 16, 4),
            is_grey_corner,
        ),
        "16 bits, colour": ("x.png", png(samples * 257, 16, 2), is_corner),
        "16 bits, colour and alpha": (
            "x.png",
            png(np.concatenate([samples * 257, wide], -1), 16, 6),
            is_corner,
        ),
        "1x1 pixel": ("x.png", encoded(Image.new("RGB", (1, 1), RED)), plain(RED)),
        "1x1 pixel, 1 bit": ("x.png", encoded(Image.new("1", (1, 1), 1)), plain(255)),
        "1x500": ("x.png", encoded(Image.new("RGB", (1, 500), RED)), plain(RED)),
        "of the size": ("x.png", encoded(corner(SIZE, SIZE)), is_corner),
        "larger": ("x.png", encoded(corner(1500, 1500)), is_corner),
        "the centre of a tall one": ("x.png", encoded(tall), plain(BLUE)),
        "JPEG called PNG": ("x.png", encoded(image, "JPEG", quality=95), is_corner),
        "PNG called JPEG": ("x.jpeg", encoded(image), is_corner),
        "GIF called PNG": ("x.png", encoded(image, "GIF"), is_corner),
        "upper-case suffix": ("x.JPEG", encoded(image, "JPEG"), is_corner),
        "mixed-case suffix": ("x.Png", encoded(image), is_corner),
        "two suffixes": ("x.tar.png", encoded(image), is_corner),
        "spaces": ("x y  z.png", encoded(image), is_corner),
        "line break": ("x\ny.png", encoded(image), is_corner),
        "accents": ("\u00e9\u00fc\u00df.png", encoded(image), is_corner),
        "Chinese": ("\u4e2d\u6587.png", encoded(image), is_corner),
        "emoji": ("\U0001f431.png", encoded(image), is_corner),
        "not UTF-8": (os.fsdecode(b"x\xff\xfe.png"), encoded(image), is_corner),
        "long name": ("x" * 251 + ".png", encoded(image), is_corner),
        "EXIF that is no EXIF": (
            "x.jpg",
            encoded(image, "JPEG", quality=95, exif=b"Exif\0\0nonsense"),
            is_corner,
        ),
        "EXIF orientation 9": (
            "x.jpg",
            encoded(image, "JPEG", quality=95, exif=exif(9)),
            is_corner,
        ),
        "EXIF rotation in a PNG": (
            "x.png",
            encoded(image.transpose(Image.Transpose(STORED[6])), exif=exif(6)),
            is_corner,
        ),
    }
    for orientation, stored in STORED.items():
        turned = image.transpose(Image.Transpose(stored))
        content = encoded(turned, "JPEG", quality=95, exif=exif(orientation))
        cases[f"EXIF orientation {orientation}"] = ("x.jpg", content, is_corner)
    return cases


def refused_cases() -> dict[str, tuple[str, bytes]]:
    """Case -> file name and content of what is no image."""
    noise = np.random.RandomState(0).bytes(60 * 60 * 3)
    busy = Image.frombytes("RGB", (60, 60), noise)  # whose pixels take most of the file
    whole, photo = encoded(busy), encoded(busy, "JPEG")
    wrong = bytearray(whole)
    wrong[45] ^= 255
    little = np.zeros((2, 2, 3), np.uint16)
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(b"x" * 70_000_000))
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    cases = {
        "empty": ("x.png", b""),
        "one byte": ("x.jpg", b"\xff"),
        "text": ("x.png", b"this is not an image\n"),
        "random bytes": ("x.jpg", noise),
        "damaged pixels": ("x.png", bytes(wrong)),
        "header of 50,000x50,000": ("x.png", png(little, 8, 2, (50_000, 50_000))),
        "header of 2^31": ("x.png", png(little, 8, 2, (2**31 - 1, 2**31 - 1))),
        "header of no pixels": ("x.png", png(little, 8, 2, (0, 0))),
        "less than the header says": ("x.png", png(little, 8, 2, (300, 300))),
        "text of 70 MB": ("x.png", png(little, 8, 2, extra=bomb)),
        "EPS called PNG": ("x.png", program + b"showpage\n%%EOF\n"),
        "TIFF called JPEG": ("x.jpg", encoded(corner(), "TIFF")),
        "not UTF-8, empty": (os.fsdecode(b"x\xff.png"), b""),
        "line break, empty": ("x\ny.png", b""),
    }
    for share in (0.05, 0.3, 0.6, 0.9):
        percent = f"{share:.0%}"
        cases[f"PNG cut at {percent}"] = ("x.png", whole[: int(share * len(whole))])
        cases[f"JPEG cut at {percent}"] = ("x.jpg", photo[: int(share * len(photo))])
    return cases


def special_cases() -> dict[str, tuple[str, Callable[[pathlib.Path], str | None]]]:
    """Case -> what is expected, and what makes it in the folder of two classes; it
    returns what the error must name, relative to that folder."""

    def write(path: pathlib.Path, content: bytes = b"") -> None:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)

    def link(path: pathlib.Path, target: str, named: str | None) -> str | None:
        path.symlink_to(target)
        return named

    good = encoded(corner())

    def one_class(root):
        for file in (root / "b").iterdir():
            file.unlink()
        (root / "b").rmdir()
        return ""

    return {
        "other files": (LEFT_OUT, lambda r: write(r / "a" / "notes.txt", b"text")),
        "no suffix": (LEFT_OUT, lambda r: write(r / "a" / "x", good)),
        "wrong suffix": (LEFT_OUT, lambda r: write(r / "a" / "x.webp", good)),
        "hidden file": (LEFT_OUT, lambda r: write(r / "a" / ".DS_Store")),
        "hidden twin of macOS": (LEFT_OUT, lambda r: write(r / "a" / "._x.png", b"0")),
        "sub-folder": (LEFT_OUT, lambda r: write(r / "a" / "sub", b"")),
        "sub-folder with images": (
            PIXELS,
            lambda r: ((r / "a" / "s").mkdir(), write(r / "a" / "s" / "x.png", good))[
                1
            ],
        ),
        "sub-folder called PNG": (LEFT_OUT, lambda r: (r / "a" / "x.png").mkdir()),
        "file beside the classes": (LEFT_OUT, lambda r: write(r / "x.png", good)),
        "hidden folder": (LEFT_OUT, lambda r: write(r / ".git" / "x.png", good)),
        "link in place of a class, to itself": (
            LEFT_OUT,
            lambda r: link(r / "loop", "loop", None),
        ),
        "link to the folder above": (
            LEFT_OUT,
            lambda r: link(r / "a" / "up", "..", None),
        ),
        "empty class": (REFUSED, lambda r: ((r / "c").mkdir(), "c")[1]),
        "class of other files": (
            REFUSED,
            lambda r: (write(r / "c" / "notes.txt"), "c")[1],
        ),
        "class that is the folder above": (REFUSED, lambda r: link(r / "c", ".", "c")),
        "class of broken links": (
            REFUSED,
            lambda r: ((r / "c").mkdir(), link(r / "c" / "x.png", "no", "c/x.png"))[1],
        ),
        "one class": (REFUSED, one_class),
        "broken link": (REFUSED, lambda r: link(r / "a" / "x.png", "none", "a/x.png")),
        "links in a loop": (
            REFUSED,
            lambda r: (
                link(r / "a" / "x.png", "y.png", None),
                link(r / "a" / "y.png", "x.png", "a/x.png"),
            )[1],
        ),
        "named pipe": (REFUSED, lambda r: (os.mkfifo(r / "a" / "x.png"), "a/x.png")[1]),
    }
