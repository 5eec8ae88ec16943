"""VGG networks with normalisation (Simonyan and Zisserman 2015, arXiv 1409.1556).

They differ from the paper in what is usual today: each convolution is followed by a
normalisation, and global average pooling with one linear layer replaces the three fully
connected layers.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.models.classifier import (
    NORMS,
    Classifier,
    Stages,
    conv,
    normalization,
    run_block,
)

SUMMARY = "VGG with normalisation, average-pooled (Simonyan and Zisserman 2015)"
NAMES = ("vgg11", "vgg16")
PATTERN = r"vgg(11|16)"

_WIDTHS = (64, 128, 256, 512, 512)
# Convolutions of each stage: configurations A and D of the paper's table 1.
_STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


def default_config() -> ConfigDict:
    """Options of the VGG networks.

    * `norm`: `"batch"` or `"group"` normalisation after each convolution.
    """
    return ConfigDict({"norm": "batch"})


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """Builds the network.

    Args:
      name: One of `NAMES`.
      num_classes: Number of outputs.
      config: Options, see `default_config`.
      dtype: Type of the activations. Parameters and batch statistics are float32.
      remat: Whether to recompute the stages in the backward pass to save memory.

    Raises:
      UserError: An unknown name or norm.
    """
    match = re.fullmatch(PATTERN, name)
    if match is None:
        raise UserError(unknown("model", name, NAMES))
    if config.norm not in NORMS:
        raise UserError(unknown("model.vgg.norm", config.norm, NORMS))
    backbone = VGG(int(match[1]), dtype=dtype, remat=remat, norm=config.norm)
    return Classifier(backbone, num_classes)


class VGG(nn.Module):
    """Five stages of 3x3 convolutions, each followed by max-pooling that halves sides.

    Max-pooling is skipped if a side has fewer than 2 pixels, which would leave nothing;
    images of 8x8 are pooled three times. Images of up to 63 pixels end in maps of a
    single pixel, which is all that Grad-CAM then sees.

    Attributes:
      depth: 11 or 16, the number of layers in the paper.
      dtype: Type of the activations.
      remat: See `make`.
      norm: See `default_config`.
    """

    depth: int
    dtype: Any = jnp.float32
    remat: bool = False
    norm: str = "batch"
    num_stages = len(_WIDTHS)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, stages: Stages | None = None
    ) -> jax.Array:
        for stage in range(*(stages or (0, self.num_stages))):
            width, layers = _WIDTHS[stage], _STAGES[self.depth][stage]
            x = run_block(self, _stage, x, train, width, layers, f"stage{stage}")
        return x


def _stage(
    self: VGG, x: jax.Array, train: bool, width: int, layers: int, name: str
) -> jax.Array:
    for i in range(layers):
        x = conv(width, 3, 1, self.dtype, f"{name}_conv{i}")(x)
        x = nn.relu(normalization(self, train, f"{name}_norm{i}")(x))
    if min(x.shape[1:3]) < 2:
        return x
    return nn.max_pool(x, (2, 2), (2, 2))
