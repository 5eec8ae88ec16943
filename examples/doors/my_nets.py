"""Networks of one's own, for the trainer: a linen ViT and an NNX network.

From this folder:

    python ../../launch/main.py --config=../../configs/digits.py \
        --config.model.name=my_nets:vit --config.model.options.width=48 \
        --config.optimizer.name=adamw --config.optimizer.learning_rate=0.002
    python ../../launch/main.py --config=../../configs/digits.py \
        --config.model.name=my_nets:ConvNet --config.model.options.width=16
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx


class Block(nn.Module):
    """Attention and an MLP, each left out for some images in training."""

    heads: int
    dropout: float
    drop_path: float

    @nn.compact
    def __call__(self, x, train):
        def branch(y):
            y = nn.Dropout(self.dropout, deterministic=not train)(y)
            # One draw an image: stochastic depth.
            return nn.Dropout(
                self.drop_path, broadcast_dims=(1, 2), deterministic=not train
            )(y)

        y = nn.LayerNorm()(x)
        x = x + branch(nn.MultiHeadDotProductAttention(self.heads)(y, y))
        y = nn.gelu(nn.Dense(2 * x.shape[-1])(nn.LayerNorm()(x)))
        return x + branch(nn.Dense(x.shape[-1])(y))


class ViT(nn.Module):
    """A small Vision Transformer: all that the trainer asks of it are logits."""

    num_classes: int
    width: int
    depth: int
    patch: int
    dropout: float
    drop_path: float

    @nn.compact
    def __call__(self, images, train):
        patch = (self.patch, self.patch)
        x = nn.Conv(self.width, patch, patch)(images)
        x = x.reshape(len(x), -1, self.width)
        x += self.param("position", nn.initializers.normal(0.02), x.shape[1:])
        for _ in range(self.depth):
            x = Block(4, self.dropout, self.drop_path)(x, train)
        return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(1))


def vit(num_classes, width=32, depth=2, patch=2, dropout=0.1, drop_path=0.1):
    """What `--config.model.name=my_nets:vit` names; options have defaults here."""
    return ViT(num_classes, width, depth, patch, dropout, drop_path)


class ConvNet(nnx.Module):
    """An NNX network with BatchNorm and dropout.

    It also offers its last feature maps and what makes logits of them, so that Grad-CAM
    works, and its last layer (`introspect_jax/models/protocol.py`).
    """

    def __init__(self, num_classes, width=16, channels=1, *, rngs: nnx.Rngs):
        self.first = nnx.Conv(channels, width, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.second = nnx.Conv(width, 2 * width, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(2 * width, num_classes, rngs=rngs)

    def maps(self, images: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.first(images)))
        return nnx.relu(self.second(x))

    def classify(self, maps: jax.Array) -> jax.Array:
        return self.head(self.dropout(jnp.mean(maps, axis=(1, 2))))

    def last_layer(self) -> tuple[jax.Array, jax.Array]:
        return self.head.kernel[...], self.head.bias[...]

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.classify(self.maps(images))
