"""What all networks share: a backbone, then one linear layer."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.options import check_choice

NORMS = ("batch", "group")
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(features: int, size: int, stride: int, dtype: Any, name: str) -> nn.Conv:
    """A convolution without bias, padded by half its size on both sides."""
    half = size // 2
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=((half, half), (half, half)),
        use_bias=False,
        kernel_init=KERNEL_INIT,
        dtype=dtype,
        name=name,
    )


def batch_norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """Batch normalisation; under `jit` over a sharded batch it sees all of it."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


def normalization(backbone: nn.Module, train: bool, name: str) -> nn.Module:
    """The normalisation that the backbone asks for, of each `NORMS`.

    `group` (Wu and He 2018) sees one example at a time, so that training and
    explanation share a pass; in groups of 8 channels, which divide all widths here.
    """
    if backbone.norm == "batch":
        return batch_norm(train, backbone.dtype, name)
    return nn.GroupNorm(
        num_groups=None, group_size=8, epsilon=1e-5, dtype=backbone.dtype, name=name
    )


def check_norm(prefix: str, config: ConfigDict) -> None:
    """Raises a UserError for a `norm` that does not exist."""
    check_choice(prefix, config, norm=NORMS)


def run_block(
    backbone: nn.Module, block: Callable[..., jax.Array], x: jax.Array, *options: Any
) -> jax.Array:
    """`block(backbone, x, *options)`; its inside is not kept if the backbone says so.

    A function and not a module of its own: parameters have the same names either way.
    """

    def run(module: nn.Module, x: jax.Array) -> jax.Array:
        return block(module, x, *options)

    return (nn.remat(run) if backbone.remat else run)(backbone, x)


class Classifier(nn.Module):
    """`logits = head(mean over space of backbone(images))`.

    Beside its call it has the optional methods of `models.protocol`, by which
    explanations and controls look inside of a network.

    Attributes:
      backbone: images -> feature maps `[batch, h, w, d]`; its call takes `train`.
      num_classes: outputs.
    """

    backbone: nn.Module
    num_classes: int

    def setup(self):
        # Float32 whatever the backbone's precision: the logits are what explanations
        # and losses are made of, and the layer costs next to nothing.
        self.head = nn.Dense(self.num_classes, dtype=None)

    def maps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Last feature maps `[batch, h, w, d]`."""
        return self.backbone(images, train=train)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Pooled features `[batch, d]`, float32 or wider."""
        return self._pool(self.maps(images, train=train))

    def classify(self, maps: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of feature maps."""
        return self.head(self._pool(maps))

    def last_layer(self, variables: Any) -> tuple[jax.Array, jax.Array]:
        """Kernel `[d, classes]` and bias `[classes]` of the last layer."""
        head = variables["params"]["head"]
        return head["kernel"], head["bias"]

    def _pool(self, maps: jax.Array) -> jax.Array:
        wide = jnp.promote_types(maps.dtype, jnp.float32)
        return jnp.mean(maps, axis=(1, 2), dtype=wide)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, h, w, c]`."""
        return self.classify(self.maps(images, train=train))
