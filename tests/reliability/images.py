"""Folders of images as they are found: every file is read right, or named in one line.

    python tests/reliability/images.py [--json=FILE] [--damaged=400]

A case is a folder of two classes with one strange file (or folder) in it, read through
`data.load`. What is expected: the right pixels, an error in one line with the
path, or that the file is left out. Then images are damaged at random: each must be
decoded to the right shape or raise an OSError, which the reader puts in that line.
"""

import argparse
import collections
import os
import pathlib
import sys
import tempfile
import time
import warnings
from collections.abc import Callable

os.environ["JAX_PLATFORMS"] = "cpu"
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "reliability")]

import numpy as np
from common import TooLong, limit, parse_arguments, write_result
from image_cases import (
    LEFT_OUT,
    PIXELS,
    PLAIN,
    REFUSED,
    SIZE,
    corner,
    encoded,
    exif,
    is_corner,
    read_cases,
    refused_cases,
    special_cases,
)
from PIL import Image

from introspect_jax import data
from introspect_jax.config import default_config
from introspect_jax.data.images import decode
from introspect_jax.errors import UserError

LONGEST_SECONDS = 30


def make_folder(root: pathlib.Path) -> None:
    """Two classes of plain images."""
    for name, level in (("a", 90), ("b", 160)):
        (root / name).mkdir(parents=True)
        for i in range(PLAIN):
            image = Image.new("RGB", (10, 10), (level,) * 3)
            image.save(root / name / f"good{i}.png")


def load(root: pathlib.Path) -> np.ndarray:
    """All images, uint8 `[n, h, w, 3]`."""
    config = default_config().data
    config.name, config.data_dir, config.load_size = "folder", str(root), SIZE
    config.validation_fraction = 0.0
    dataset = data.load(config)
    splits = (dataset.train, dataset.test)
    return np.concatenate([split.take(np.arange(len(split)))[0] for split in splits])


def judge(
    root: pathlib.Path,
    expected: str,
    named: str | None = None,
    pixels: Callable[[np.ndarray], bool] | None = None,
) -> str:
    """What is wrong with how the folder is read; nothing if all is as expected."""
    began = time.monotonic()
    try:
        with limit(2 * LONGEST_SECONDS):
            images = load(root)
    except UserError as error:
        line = str(error)
        if expected != REFUSED:
            return f"refused: {line}"
        if len(line.splitlines()) != 1:
            return f"not one line: {line!r}"
        path = str(root / named) if named is not None else str(root)
        if repr(path)[1:-1] not in line:
            return f"does not name {named!r}: {line}"
        return ""
    except (Exception, TooLong) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        seconds = time.monotonic() - began
    if seconds > LONGEST_SECONDS:
        return f"took {seconds:.0f} s"
    if expected == REFUSED:
        return "was read without a word"
    more = 1 if expected == PIXELS else 0
    if images.shape != (2 * PLAIN + more, SIZE, SIZE, 3):
        return f"gave images of shape {images.shape}"
    levels = images.reshape(len(images), -1).astype(int)
    strange = [
        image
        for image, level in zip(images, levels, strict=True)
        if np.abs(level - 90).max() > 2 and np.abs(level - 160).max() > 2
    ]
    if len(strange) != more:
        return f"{len(strange)} images are not plain"
    if pixels is not None and not pixels(strange[0]):
        return f"wrong pixels, mean {strange[0].mean((0, 1)).round(1).tolist()}"
    return ""


def do_cases() -> list[tuple[str, str, str]]:
    """Every case: its name, what is expected, and what is wrong."""
    rows = []
    with tempfile.TemporaryDirectory() as made:
        made_in = pathlib.Path(made).resolve()

        def fresh() -> pathlib.Path:
            root = made_in / str(len(rows))
            make_folder(root)
            return root

        for name, (file, content, pixels) in read_cases().items():
            root = fresh()
            (root / "a" / file).write_bytes(content)
            rows.append((name, PIXELS, judge(root, PIXELS, pixels=pixels)))
        for name in ("\u00e9t\u00e9", "\u4e2d \u6587", "\U0001f431"):
            root = fresh()
            (root / "a").rename(root / name)
            rows.append((f"class {name!a}", LEFT_OUT, judge(root, LEFT_OUT)))
        root = fresh()
        (root / "a" / "x.png").symlink_to("../x.png")
        (root / "x.png").write_bytes(encoded(corner()))
        rows.append(("link to a file", PIXELS, judge(root, PIXELS, pixels=is_corner)))
        for name, (file, content) in refused_cases().items():
            root = fresh()
            (root / "a" / file).write_bytes(content)
            rows.append((name, REFUSED, judge(root, REFUSED, f"a/{file}")))
        for name, (expected, make) in special_cases().items():
            root = fresh()
            named = make(root)
            rows.append((name, expected, judge(root, expected, named)))
    return rows


def damage(count: int, seed: int = 0) -> tuple[dict[str, int], list[str]]:
    """Decodes images of which bytes were changed or cut off.

    Returns:
      How many were read and how many refused, and what else happened.
    """
    draw = np.random.RandomState(seed)
    whole = [
        encoded(corner(40, 30)),
        encoded(corner(40, 30), exif=exif(6)),
        encoded(corner(40, 30).quantize(8), transparency=bytes([255, 0, 128])),
        encoded(corner(40, 30), "JPEG", exif=exif(6)),
        encoded(corner(40, 30).convert("CMYK"), "JPEG", progressive=True),
        encoded(corner(40, 30), "GIF"),
        encoded(corner(40, 30), "BMP"),
    ]
    told: collections.Counter[str] = collections.Counter()
    wrong = []
    for number in range(count):
        content = bytearray(whole[number % len(whole)])
        # Most of them near the start, where the structure is.
        reach = len(content) if draw.random_sample() < 0.5 else min(120, len(content))
        for _ in range(draw.randint(1, 6)):
            content[draw.randint(reach)] = draw.randint(256)
        if draw.random_sample() < 0.2:
            del content[draw.randint(1, len(content)) :]
        try:
            image = decode(bytes(content), 3, (SIZE, SIZE))
        except OSError:
            told["refused"] += 1
        except Exception as error:
            wrong.append(f"damaged image {number}: {type(error).__name__}: {error}")
        else:
            told["read"] += 1
            if image.shape != (SIZE, SIZE, 3) or image.dtype != np.uint8:
                wrong.append(f"damaged image {number}: {image.shape} {image.dtype}")
    return dict(told), wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--damaged", type=int, default=400)
    given = parse_arguments(parser)
    # Of odd palettes and EXIF; what counts is what is read.
    warnings.simplefilter("ignore")
    rows = do_cases()
    failures = [f"{name}: {problem}" for name, _, problem in rows if problem]
    told, wrong = damage(given.damaged)
    failures += wrong
    print("\n".join(failures) + "\n" * bool(failures), end="")
    counts = dict(collections.Counter(expected for _, expected, _ in rows))
    print(f"{len(rows)} kinds of files and folders, expected: {counts}")
    print(f"{given.damaged} damaged images: {told}")
    result = {"cases": [row[:2] for row in rows], "counts": counts}
    result |= {"damaged": told, "failures": failures}
    sys.exit(write_result(given.json, result))
