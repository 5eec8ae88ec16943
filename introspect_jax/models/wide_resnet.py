"""Wide ResNets WRN-d-k (Zagoruyko and Komodakis 2016): pre-activation, no dropout."""

import re
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.models.classifier import (
    Classifier,
    Stages,
    check_norm,
    conv,
    normalization,
    run_block,
)

SUMMARY = "Wide ResNets (Zagoruyko and Komodakis 2016)"
NAMES = ("wrn<d>_<k> (d = 6n + 4, as in wrn28_10)",)
PATTERN = r"wrn(\d{1,4})_(\d{1,4})"


def default_config() -> ConfigDict:
    """`norm`: `"batch"` or `"group"` normalisation."""
    return ConfigDict({"norm": "batch"})


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """The network of that depth and width.

    Raises:
      UserError: A depth that is not 6n + 4, no width, or an unknown norm.
    """
    check_norm("model.wide_resnet.", config)
    depth, width = map(int, cast(re.Match, re.fullmatch(PATTERN, name)).groups())
    if depth < 10 or depth % 6 != 4 or width < 1:
        raise UserError(
            f"model {name!r}: the depth must be 6n + 4 (10, 16, 22, 28, ...) and the "
            f"width at least 1, got {depth} and {width}"
        )
    backbone = WideResNet((depth - 4) // 6, width, dtype, remat, config.norm)
    return Classifier(backbone, num_classes)


class WideResNet(nn.Module):
    """Three stages of 16k, 32k and 64k channels with n = (d - 4) / 6 blocks each.

    The stem belongs to the first, the final normalisation to the last.
    """

    blocks: int
    width: int
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
        for stage in range(first, last):
            features = 16 * 2**stage * self.width
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = run_block(self, _block, x, train, features, stride, name)
        if last < self.num_stages:
            return x
        return nn.relu(normalization(self, train, "final_norm")(x))


def _block(
    self: WideResNet, x: jax.Array, train: bool, features: int, stride: int, name: str
) -> jax.Array:
    y = nn.relu(normalization(self, train, f"{name}_norm0")(x))
    shortcut = x
    if x.shape[-1] != features or stride > 1:
        shortcut = conv(features, 1, stride, self.dtype, f"{name}_proj")(y)
    y = conv(features, 3, stride, self.dtype, f"{name}_conv0")(y)
    y = nn.relu(normalization(self, train, f"{name}_norm1")(y))
    return shortcut + conv(features, 3, 1, self.dtype, f"{name}_conv1")(y)
