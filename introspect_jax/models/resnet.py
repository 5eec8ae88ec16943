"""ResNet-18, 34 and 50 (He et al. 2016, table 1), with two stems."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.models.classifier import (
    Classifier,
    Stages,
    check_norm,
    conv,
    normalization,
    run_block,
)
from introspect_jax.options import check_choice

SUMMARY = "ResNets of ImageNet (He et al. 2016, table 1)"
_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}
NAMES = tuple(f"resnet{depth}" for depth in _STAGES)
PATTERN = "|".join(NAMES)
STEMS = ("small", "imagenet")


def default_config() -> ConfigDict:
    """Options.

    `stem`: `"small"` (3x3, for images of up to about 64 pixels) or `"imagenet"` (7x7
    with stride 2, then max-pooling); `norm`: `"batch"` or `"group"` normalisation.
    """
    return ConfigDict({"stem": "small", "norm": "batch"})


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """The network of that depth.

    Raises:
      UserError: An unknown stem or norm.
    """
    check_choice("model.resnet.", config, stem=STEMS)
    check_norm("model.resnet.", config)
    depth, small = int(name.removeprefix("resnet")), config.stem == "small"
    return Classifier(ResNet(depth, small, dtype, remat, config.norm), num_classes)


class ResNet(nn.Module):
    """Four stages; depth 50 has bottleneck blocks, its stride in the 3x3 layer.

    The stem belongs to the first stage.

    Attributes:
      depth: 18, 34 or 50.
      small_stem: one 3x3 convolution instead of 7x7 with stride 2 and max-pooling.
      dtype: of the activations.
      remat: whether the inside of blocks is computed again for gradients.
      norm: of `classifier.NORMS`.
    """

    depth: int
    small_stem: bool
    dtype: Any = jnp.float32
    remat: bool = False
    norm: str = "batch"
    num_stages = 4

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, stages: Stages | None = None
    ) -> jax.Array:
        first, last = stages or (0, self.num_stages)
        if first == 0:
            x = self._stem(x, train)
        for stage in range(first, last):
            for block in range(_STAGES[self.depth][stage]):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = run_block(self, _block, x, train, 64 * 2**stage, stride, name)
        return x

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        if self.small_stem:
            x = conv(64, 3, 1, self.dtype, "stem")(x)
        else:
            x = conv(64, 7, 2, self.dtype, "stem")(x)
        x = nn.relu(normalization(self, train, "stem_norm")(x))
        if not self.small_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        return x


def _block(
    self: ResNet, x: jax.Array, train: bool, width: int, stride: int, name: str
) -> jax.Array:
    # (size of the kernel, channels, stride)
    if self.depth == 50:
        layers = [(1, width, 1), (3, width, stride), (1, 4 * width, 1)]
    else:
        layers = [(3, width, stride), (3, width, 1)]
    y = x
    for i, (size, features, step) in enumerate(layers):
        y = conv(features, size, step, self.dtype, f"{name}_conv{i}")(y)
        y = normalization(self, train, f"{name}_norm{i}")(y)
        y = y if i == len(layers) - 1 else nn.relu(y)
    if x.shape != y.shape:
        x = conv(y.shape[-1], 1, stride, self.dtype, f"{name}_proj")(x)
        x = normalization(self, train, f"{name}_proj_norm")(x)
    return nn.relu(x + y)
