"""EfficientNet-Lite0 in Flax linen, for weights that others trained on ImageNet.

EfficientNet (Tan and Le 2019) without squeeze-and-excitation and with ReLU6 in place of
swish. `convert.py` writes its weights; `lite0` makes the network:

    network = lite0()
    logits = network.apply(variables, images, train=False)  # images [batch, h, w, 3]

It has the optional methods of `introspect_jax/models/protocol.py` that explanations
use. Dropout and stochastic depth, which its training had, are left out: this example
explains the network and does not train it.
"""

import functools
import pathlib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

WEIGHTS = pathlib.Path(__file__).parent / "weights" / "efficientnet_lite0.safetensors"
EPSILON = 1e-3  # of batch normalisation
STEM, HEAD = 32, 1280  # channels
_MOMENTUM = 0.99


class Layout(NamedTuple):
    """Layout of an inverted bottleneck: 1x1, depthwise and 1x1 convolutions.

    Attributes:
      size: Of the depthwise kernel.
      stride: Of the depthwise convolution.
      expansion: Channels inside of the block for each of its inputs; 1 leaves the
        first convolution out.
      features: Outputs.
    """

    size: int
    stride: int
    expansion: int
    features: int


# (blocks, layout of the first); the other blocks of a stage have stride 1.
_STAGES = (
    (1, Layout(3, 1, 1, 16)),
    (2, Layout(3, 2, 6, 24)),
    (2, Layout(5, 2, 6, 40)),
    (3, Layout(3, 2, 6, 80)),
    (3, Layout(5, 1, 6, 112)),
    (4, Layout(5, 2, 6, 192)),
    (1, Layout(3, 1, 6, 320)),
)
BLOCKS = tuple(
    layout._replace(stride=layout.stride if block == 0 else 1)
    for blocks, layout in _STAGES
    for block in range(blocks)
)


def weights_file() -> pathlib.Path:
    """Returns the file that `convert.py` writes.

    Raises:
      SystemExit: It was not written yet.
    """
    if not WEIGHTS.exists():
        raise SystemExit(
            f"{WEIGHTS} is missing; examples/pretrained/convert.py writes it"
        )
    return WEIGHTS


def lite0(num_classes: int = 1000) -> "EfficientNetLite":
    """Returns EfficientNet-Lite0, for images of 224x224 pixels."""
    return EfficientNetLite(num_classes)


def depthwise(images: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
    """Convolves each channel with a kernel of its own, padded as TensorFlow's "SAME".

    A sum of shifted products, one for each element of the kernel, because XLA for CPUs
    is slow in what it equals, `lax.conv_general_dilated(..., feature_group_count=c)`.
    Milliseconds of Lite0 for an image of 224x224 pixels on one CPU core, compiled by
    `introspect_jax.cpu.jit`, in JAX 0.10.2 and 0.12.0 (2026-11-26, the least of 7):

    | convolutions | logits     | gradient    | similarities of all classes |
    | ------------ | ---------- | ----------- | --------------------------- |
    | sums         | 15 and 14  | 40 and 39   | 58 and 55                   |
    | grouped      | 90 and 110 | 384 and 392 | 496 and 504                 |

    Args:
      images: `[batch, h, w, c]`.
      kernel: `[k, k, 1, c]`.
      stride: In both directions.

    Returns:
      `[batch, ceil(h / stride), ceil(w / stride), c]`.
    """
    size = len(kernel)
    # Rows and columns from the first to the last that an element is multiplied with.
    spans = [stride * (-(-pixels // stride) - 1) + 1 for pixels in images.shape[1:3]]
    missing = [
        max(span + size - 1 - pixels, 0)
        for span, pixels in zip(spans, images.shape[1:3], strict=True)
    ]
    around = [(pixels // 2, pixels - pixels // 2) for pixels in missing]
    padded = jnp.pad(images, ((0, 0), *around, (0, 0)))
    height, width = spans
    products = (
        padded[:, i : i + height : stride, j : j + width : stride] * kernel[i, j, 0]
        for i in range(size)
        for j in range(size)
    )
    # For the backward pass, in which XLA would compute the cotangent for each product
    # again. XLA for CPUs keeps barriers only in what `introspect_jax.cpu.jit` compiles.
    return jax.lax.optimization_barrier(functools.reduce(jnp.add, products))


class Depthwise(nn.Module):
    """The layer of `depthwise`; its kernel is `[k, k, 1, c]`, as that of `nn.Conv`."""

    size: int
    stride: int

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        shape = (self.size, self.size, 1, images.shape[-1])
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        return depthwise(images, kernel, self.stride)


class Block(nn.Module):
    """An inverted bottleneck, with a shortcut where the shapes allow one."""

    layout: Layout

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        size, stride, expansion, features = self.layout
        y = x
        if expansion > 1:
            y = _conv(expansion * x.shape[-1], 1, 1, name="expand")(y)
            y = nn.relu6(_norm(name="expand_norm")(y, not train))
        y = Depthwise(size, stride, name="depthwise")(y)
        y = nn.relu6(_norm(name="depthwise_norm")(y, not train))
        y = _conv(features, 1, 1, name="project")(y)
        y = _norm(name="project_norm")(y, not train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nn.Module):
    """A stem, blocks, a head of 1x1, the mean over space, and a linear layer.

    Attributes:
      num_classes: Number of outputs.
    """

    num_classes: int

    def setup(self) -> None:
        self.stem = _conv(STEM, 3, 2)
        self.stem_norm = _norm()
        self.blocks = [Block(layout) for layout in BLOCKS]
        self.head = _conv(HEAD, 1, 1)
        self.head_norm = _norm()
        self.classifier = nn.Dense(self.num_classes)

    def __call__(self, images: jax.Array, train: bool) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, h, w, 3]`."""
        return self.classify(self.maps(images, train))

    def maps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Last feature maps `[batch, h / 32, w / 32, 1280]`."""
        x = nn.relu6(self.stem_norm(self.stem(images), not train))
        for block in self.blocks:
            x = block(x, train)
        return nn.relu6(self.head_norm(self.head(x), not train))

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Inputs `[batch, 1280]` of the last layer."""
        return self.maps(images, train).mean((1, 2))

    def classify(self, maps: jax.Array) -> jax.Array:
        """Logits `[batch, classes]` of the last feature maps."""
        return self.classifier(maps.mean((1, 2)))

    def last_layer(self, variables: Any) -> tuple[jax.Array, jax.Array]:
        """Kernel `[1280, classes]` and bias `[classes]` of the last layer."""
        layer = variables["params"]["classifier"]
        return layer["kernel"], layer["bias"]


def _conv(features: int, size: int, stride: int, **name: str) -> nn.Conv:
    return nn.Conv(features, (size, size), stride, "SAME", use_bias=False, **name)


def _norm(**name: str) -> nn.BatchNorm:
    return nn.BatchNorm(momentum=_MOMENTUM, epsilon=EPSILON, **name)
