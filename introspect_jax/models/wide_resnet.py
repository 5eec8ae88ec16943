"""Wide ResNets WRN-d-k (Zagoruyko and Komodakis 2016): pre-activation, no dropout."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax.models.classifier import conv, normalization, run_block


class WideResNet(nn.Module):
    """Three stages of 16k, 32k and 64k channels with n = (d - 4) / 6 blocks each."""

    blocks: int
    width: int
    dtype: Any = jnp.float32
    remat: bool = False
    norm: str = "batch"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        x = conv(16, 3, 1, self.dtype, "stem")(x)
        for stage, base in enumerate((16, 32, 64)):
            features = base * self.width
            for block in range(self.blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                x = run_block(self, _block, x, train, features, stride, name)
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
