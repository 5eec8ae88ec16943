"""ResNets of depth 6n + 2 for small images (He et al. 2016, section 4.2)."""

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

SUMMARY = "ResNets for small images (He et al. 2016, section 4.2)"
NAMES = tuple(f"resnet{depth}" for depth in (8, 20, 32, 44, 56, 110))
PATTERN = "|".join(NAMES)


def default_config() -> ConfigDict:
    """`norm`: `"batch"` or `"group"` normalisation."""
    return ConfigDict({"norm": "batch"})


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """The network of depth 6n + 2.

    Raises:
      UserError: An unknown norm.
    """
    check_norm("model.small_resnet.", config)
    depth = int(name.removeprefix("resnet"))
    backbone = SmallResNet((depth - 2) // 6, dtype, remat, config.norm)
    return Classifier(backbone, num_classes)


def pad_shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    """The paper's option A: subsample space, fill new channels with zeros."""
    x = x[:, ::stride, ::stride, :]
    new = features - x.shape[-1]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class SmallResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels with n blocks of two layers each.

    The stem belongs to the first.
    """

    blocks: int
    dtype: Any = jnp.float32
    remat: bool = False
    norm: str = "batch"
    num_stages = 3

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, stages: Stages | None = None
    ) -> jax.Array:
        first, last = stages or (0, self.num_stages)
        if first == 0:
            x = conv(16, 3, 1, self.dtype, "stem")(x)
            x = nn.relu(normalization(self, train, "stem_norm")(x))
        for stage in range(first, last):
            features = 16 * 2**stage
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = run_block(self, _block, x, train, features, stride, name)
        return x


def _block(
    self: SmallResNet, x: jax.Array, train: bool, features: int, stride: int, name: str
) -> jax.Array:
    y = conv(features, 3, stride, self.dtype, f"{name}_conv0")(x)
    y = nn.relu(normalization(self, train, f"{name}_norm0")(y))
    y = conv(features, 3, 1, self.dtype, f"{name}_conv1")(y)
    y = normalization(self, train, f"{name}_norm1")(y)
    return nn.relu(y + pad_shortcut(x, features, stride))
