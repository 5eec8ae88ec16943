"""The network of cifar10-airbench (Jordan 2024, arXiv 2404.00498).

A whitening layer, computed once from training images, and three blocks of two
convolutions, which start as partial identities. With the recipe of
`configs/cifar10.py:fast` it learns CIFAR-10 in about ten epochs.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax.errors import UserError
from introspect_jax.models.classifier import Classifier, Stages, conv, run_block
from introspect_jax.models.protocol import CONSTANTS
from introspect_jax.options import check_range

SUMMARY = "whitening and six convolutions, for training in few epochs (Jordan 2024)"

_WIDTHS = (64, 256, 256)
_PATCH = 2  # side of what is whitened, in pixels
_WHITENING_EPS = 5e-4
_BIAS_SCALE = 8
_LOGIT_SCALE = 1 / 9
# That of PyTorch's linear and convolutional layers.
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def default_config() -> ConfigDict:
    """Options of the network.

    * `width`: Multiplies the widths 64, 256 and 256 of the blocks; 1.0 is the paper's.
    """
    return ConfigDict({"width": 1.0})


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """Builds the network.

    Args:
      name: Not used: there is one network.
      num_classes: Number of outputs.
      config: Options, see `default_config`.
      dtype: Type of the activations. Parameters and batch statistics are float32.
      remat: Whether to recompute the blocks in the backward pass to save memory.

    Raises:
      UserError: A width out of range.
    """
    del name
    check_range("model.airbench.", config, width=(0, 64, "(]"))
    widths = tuple(max(1, round(width * config.width)) for width in _WIDTHS)
    return Airbench(AirbenchBackbone(widths, dtype, remat), num_classes)


class Airbench(Classifier):
    """`logits = W max over space of backbone(images) / 9`.

    It has all optional methods of `models.protocol`. The layer W has no bias.
    """

    def setup(self):
        self.head = nn.Dense(
            self.num_classes, use_bias=False, kernel_init=_KERNEL_INIT, dtype=None
        )

    def classify(self, maps: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of feature maps."""
        return _LOGIT_SCALE * self.head(self._pool(maps))

    def last_layer(self, variables: Any) -> tuple[jax.Array, jax.Array]:
        """Kernel `[d, classes]`, with the factor 1/9, and a bias of zeros."""
        kernel, bias = super().last_layer(variables)
        return _LOGIT_SCALE * kernel, bias

    def prepare(self, images: jax.Array) -> dict[str, Any]:
        """The whitening kernel of training images `[n, h, w, c]`."""
        return {"backbone": {"whitening": whitening_kernel(np.asarray(images))}}

    def _pool(self, maps: jax.Array) -> jax.Array:
        wide = jnp.promote_types(maps.dtype, jnp.float32)
        return jnp.max(maps, axis=(1, 2)).astype(wide)


class AirbenchBackbone(nn.Module):
    """Whitening and three blocks; images of 32x32 pixels end in maps of 3x3.

    The max-pooling of a block is skipped if a side has fewer than 2 pixels. Each block
    is a stage; the whitening belongs to the first.

    Attributes:
      widths: Channels of each block.
      dtype: Type of the activations.
      remat: See `make`.
    """

    widths: tuple[int, ...]
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def num_stages(self) -> int:
        return len(self.widths)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, stages: Stages | None = None
    ) -> jax.Array:
        first, last = stages or (0, self.num_stages)
        if first == 0:
            x = nn.gelu(_whiten(self, x), approximate=False)
        for i in range(first, last):
            x = run_block(self, _block, x, train, self.widths[i], f"block{i}")
        return x


def _whiten(self: AirbenchBackbone, x: jax.Array) -> jax.Array:
    """Convolution with the constant kernel, without padding, and a trained bias."""
    if min(x.shape[1:3]) < _PATCH:
        raise UserError(
            f"model.name=airbench takes images of at least {_PATCH}x{_PATCH} "
            f"pixels, got {x.shape[1]}x{x.shape[2]}"
        )
    channels = x.shape[-1]
    # Until `prepare` is called: as if all pixels were independent.
    unit = np.eye(_PATCH**2 * channels)
    kernel = self.variable(CONSTANTS, "whitening", _both_signs, unit, channels).value
    bias = self.param("whitening_bias", nn.initializers.zeros, kernel.shape[-1:])
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    whitened = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return whitened + bias


def _block(
    self: AirbenchBackbone, x: jax.Array, train: bool, width: int, name: str
) -> jax.Array:
    for i in range(2):
        x = conv(width, 3, 1, self.dtype, f"{name}_conv{i}", _partial_identity)(x)
        if i == 0:
            x = max_pool(x)
        x = nn.BatchNorm(
            use_running_average=not train,
            momentum=0.6,  # few steps: the statistics must follow quickly
            epsilon=1e-5,
            use_scale=False,
            use_bias=False,
            dtype=self.dtype,
            name=f"{name}_norm{i}",
        )(x)
        # The biases of the paper have 64 times the learning rate of the kernels. With
        # b = 8 p the gradient of p is 8 times that of b, and b moves by 8 times the
        # update of p: 64 times in SGD, with or without momentum (8 times in Adam, which
        # divides by the size of the gradient).
        bias = self.param(f"{name}_bias{i}", nn.initializers.zeros, (width,))
        x = nn.gelu(x + (_BIAS_SCALE * bias).astype(x.dtype), approximate=False)
    return x


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of each 2x2 pixels of `[batch, h, w, c]`; as it is if h or w is 1.

    Written without a window: the gradient of `nn.max_pool` takes about five times as
    long on CPU. Pixels that are equally large share the gradient.
    """
    height, width = (side // 2 for side in x.shape[1:3])
    if not (height and width):
        return x
    x = x[:, : 2 * height, : 2 * width]
    return jnp.max(x.reshape(len(x), height, 2, width, 2, x.shape[-1]), axis=(2, 4))


def whitening_kernel(images: np.ndarray) -> np.ndarray:
    """A convolution whose outputs are uncorrelated and of unit size, with negatives.

    With the eigenvectors v and eigenvalues l of `E[p p^T]` over the patches p, the
    outputs are `v^T p / sqrt(l + 5e-4)`, the largest eigenvalues first.

    Args:
      images: `[n, h, w, c]`, as the network sees them.

    Returns:
      Kernel float32 `[2, 2, c, 8 c]`.
    """
    # On the host in float64: accelerators multiply matrices in fewer digits.
    images = images.astype(np.float64)
    _, height, width, channels = images.shape
    patches = np.concatenate(
        [
            images[:, i : height - 1 + i, j : width - 1 + j]
            for i in range(_PATCH)
            for j in range(_PATCH)
        ],
        axis=-1,
    ).reshape(-1, _PATCH**2 * channels)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    scaled = vectors / np.sqrt(np.maximum(values, 0) + _WHITENING_EPS)
    return np.asarray(_both_signs(scaled[:, ::-1], channels))


def _both_signs(filters: np.ndarray, channels: int) -> jax.Array:
    """The filters `[4 c, k]` and their negatives, float32 `[2, 2, c, 2 k]`."""
    both = np.concatenate([filters, -filters], axis=1)
    return jnp.asarray(both.reshape(_PATCH, _PATCH, channels, -1), jnp.float32)


def _partial_identity(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> jax.Array:
    """Random kernel `[h, w, c, d]` whose first c outputs are the c inputs."""
    copied = min(shape[2:])
    kernel = _KERNEL_INIT(key, shape, dtype).at[..., :copied].set(0)
    channel = jnp.arange(copied)
    return kernel.at[shape[0] // 2, shape[1] // 2, channel, channel].set(1)
