"""The common form of networks: a backbone and one linear layer."""

from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.convolutions import conv_general_dilated
from introspect_jax.models.protocol import STAGED
from introspect_jax.options import check_choice

NORMS = ("batch", "group")
# A static range of the stages of a backbone, `(first, last)` as in `range`.
Stages = tuple[int, int]
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


def conv(
    features: int,
    size: int,
    stride: int,
    dtype: Any,
    name: str,
    kernel_init: Any = KERNEL_INIT,
    pad: bool = True,
) -> nn.Conv:
    """Convolution without bias, padded by half of the kernel size on each side unless
    `pad` is False."""
    half = size // 2 if pad else 0
    return nn.Conv(
        features,
        (size, size),
        (stride, stride),
        padding=((half, half), (half, half)),
        use_bias=False,
        kernel_init=kernel_init,
        dtype=dtype,
        conv_general_dilated=conv_general_dilated,
        name=name,
    )


def batch_norm(train: bool, dtype: Any, name: str) -> nn.BatchNorm:
    """Batch normalisation; under `jit` over a sharded batch it uses all of it."""
    return nn.BatchNorm(
        use_running_average=not train,
        momentum=0.9,
        epsilon=1e-5,
        dtype=dtype,
        name=name,
    )


def normalization(backbone: nn.Module, train: bool, name: str) -> nn.Module:
    """Returns the normalisation layer that `backbone.norm` names, one of `NORMS`.

    `group` (Wu and He 2018, groups of 8 channels) normalises each example on its own,
    so that training and explanation can share a forward pass.
    """
    if backbone.norm == "batch":
        return batch_norm(train, backbone.dtype, name)
    return nn.GroupNorm(
        num_groups=None, group_size=8, epsilon=1e-5, dtype=backbone.dtype, name=name
    )


def check_norm(prefix: str, config: ConfigDict) -> None:
    """Raises a UserError if `norm` is unknown."""
    check_choice(prefix, config, norm=NORMS)


def run_block(
    backbone: nn.Module, block: Callable[..., jax.Array], x: jax.Array, *options: Any
) -> jax.Array:
    """Calls `block(backbone, x, *options)`, rematerialised if `backbone.remat`.

    This is a function, not a module, so that parameter names do not depend on `remat`.
    """

    def run(module: nn.Module, x: jax.Array) -> jax.Array:
        return block(module, x, *options)

    return (nn.remat(run) if backbone.remat else run)(backbone, x)


class Classifier(nn.Module):
    """`logits = head(mean over space of backbone(images))`.

    It has the optional methods of `models.protocol` except `prepare`; those of stages
    only if the backbone has stages.

    Attributes:
      backbone: Module from images to feature maps `[batch, h, w, d]`, called with
        `train`. If it has an attribute `num_stages` of at least 2, its call also takes
        `stages=(first, last)`: then it computes these stages only, as in
        `range(first, last)`, and takes the maps before `first` unless that is 0.
      num_classes: Number of outputs.
    """

    backbone: nn.Module
    num_classes: int

    def setup(self):
        # Float32 whatever the backbone's precision: the logits are what explanations
        # and losses are made of, and the layer costs next to nothing.
        self.head = nn.Dense(self.num_classes, dtype=None)

    @property
    def lacks(self) -> tuple[str, ...]:
        """Optional methods that it cannot offer, see `models.protocol.offers`."""
        if getattr(self.backbone, "num_stages", 1) > 1:
            return ()
        # A subclass may have its own.
        own = type(self)
        return tuple(n for n in STAGED if getattr(own, n) is getattr(Classifier, n))

    def maps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Last feature maps `[batch, h, w, d]`."""
        return self.backbone(images, train=train)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Pooled features `[batch, d]`, float32 or wider."""
        return self._pool(self.maps(images, train=train))

    def classify(self, maps: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of feature maps."""
        return self.head(self._pool(maps))

    def stages(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        """Maps `[batch, h, w, d]` after each stage; the last are those of `maps`."""
        after = []
        for stage in range(self._stages()):
            images = self.backbone(images, train=train, stages=(stage, stage + 1))
            after.append(images)
        return tuple(after)

    def trunk(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Maps `[batch, h, w, d]` before the last stage."""
        return self.backbone(images, train=train, stages=(0, self._stages() - 1))

    def last_stage(self, maps: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[batch, classes]` of the maps before the last stage."""
        count = self._stages()
        maps = self.backbone(maps, train=train, stages=(count - 1, count))
        return self.classify(maps)

    def _stages(self) -> int:
        return cast(Any, self.backbone).num_stages

    def last_layer(self, variables: Any) -> tuple[jax.Array, jax.Array]:
        """Kernel `[d, classes]` and bias `[classes]` of the last layer; zeros if it has
        no bias."""
        head = variables["params"]["head"]
        kernel = head["kernel"]
        return kernel, head.get("bias", jnp.zeros_like(kernel[0]))

    def _pool(self, maps: jax.Array) -> jax.Array:
        wide = jnp.promote_types(maps.dtype, jnp.float32)
        return jnp.mean(maps, axis=(1, 2), dtype=wide)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, h, w, c]`."""
        return self.classify(self.maps(images, train=train))
