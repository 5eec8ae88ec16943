"""ResNet-18, 34 and 50 (He et al. 2016, table 1), with two stems."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax.models.classifier import batch_norm, conv

_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """Four stages; depth 50 has bottleneck blocks, its stride in the 3x3 layer.

    Attributes:
      depth: 18, 34 or 50.
      small_stem: one 3x3 convolution instead of 7x7 with stride 2 and max-pooling.
      dtype: of the activations.
    """

    depth: int
    small_stem: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if self.small_stem:
            x = conv(64, 3, 1, self.dtype, "stem")(x)
        else:
            x = conv(64, 7, 2, self.dtype, "stem")(x)
        x = nn.relu(batch_norm(train, self.dtype, "stem_norm")(x))
        if not self.small_stem:
            x = nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))
        # (size of the kernel, does it carry the stride)
        layers = (
            [(1, False), (3, True), (1, False)]
            if self.depth == 50
            else [
                (3, True),
                (3, False),
            ]
        )
        for stage, blocks in enumerate(_STAGES[self.depth]):
            width = 64 * 2**stage
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage}_block{block}"
                features = 4 * width if self.depth == 50 else width
                y = x
                for i, (size, strided) in enumerate(layers):
                    last = i == len(layers) - 1
                    y = conv(
                        features if last else width,
                        size,
                        stride if strided else 1,
                        self.dtype,
                        f"{name}_conv{i}",
                    )(y)
                    y = batch_norm(train, self.dtype, f"{name}_norm{i}")(y)
                    y = y if last else nn.relu(y)
                if x.shape != y.shape:
                    x = conv(features, 1, stride, self.dtype, f"{name}_proj")(x)
                    x = batch_norm(train, self.dtype, f"{name}_proj_norm")(x)
                x = nn.relu(x + y)
        return x
