"""The same network and weights in Equinox, and the same explanations.

    python examples/pretrained/equinox_net.py

prints how they differ from linen's. The lines that differ, and those of linen:

    logits_fn = jax.vmap(load(weights_file()))  # pretrained.load(...).logits_fn
    maps = explain_fn(logits_fn, inputs, labels, channel_axis=1)  # without the axis
    rows = class_similarity(logits_fn, inputs, labels, channel_axis=1)  # likewise

An Equinox network sees one image, channels first. Its batch normalisation is a scale
and a shift, since the running statistics do not change any more.
"""

import pathlib

import equinox as eqx
import jax
import jax.numpy as jnp
from efficientnet_lite import BLOCKS, EPSILON, Layout, depthwise, weights_file
from jax.nn import relu6
from linen_results import show_differences
from safetensors.flax import load_file

Arrays = dict[str, jax.Array]


class Conv(eqx.Module):
    """A convolution with its normalisation, `[c, h, w] -> [features, h', w']`."""

    kernel: jax.Array
    scale: jax.Array
    shift: jax.Array
    stride: int = eqx.field(static=True)

    def __init__(self, arrays: Arrays, conv: str, norm: str, stride: int = 1):
        self.kernel = arrays[f"params.{conv}.kernel"]  # [k, k, in, out]
        variance = arrays[f"batch_stats.{norm}.var"]
        self.scale = arrays[f"params.{norm}.scale"] * jax.lax.rsqrt(variance + EPSILON)
        mean = arrays[f"batch_stats.{norm}.mean"]
        self.shift = arrays[f"params.{norm}.bias"] - mean * self.scale
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.convolve(x[None])[0]
        return y * self.scale[:, None, None] + self.shift[:, None, None]

    def convolve(self, x: jax.Array) -> jax.Array:
        strides, layout = (self.stride, self.stride), ("NCHW", "HWIO", "NCHW")
        return jax.lax.conv_general_dilated(
            x, self.kernel, strides, "SAME", dimension_numbers=layout
        )


class Depthwise(Conv):
    def convolve(self, x: jax.Array) -> jax.Array:
        y = depthwise(jnp.moveaxis(x, 1, -1), self.kernel, self.stride)
        return jnp.moveaxis(y, -1, 1)


class Block(eqx.Module):
    expand: Conv | None
    depthwise: Depthwise
    project: Conv

    def __init__(self, arrays: Arrays, name: str, layout: Layout):
        def names(part: str) -> tuple[str, str]:
            return f"{name}.{part}", f"{name}.{part}_norm"

        self.expand = Conv(arrays, *names("expand")) if layout.expansion > 1 else None
        self.depthwise = Depthwise(arrays, *names("depthwise"), layout.stride)
        self.project = Conv(arrays, *names("project"))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = relu6(self.expand(x)) if self.expand else x
        y = self.project(relu6(self.depthwise(y)))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(eqx.Module):
    """EfficientNet-Lite0 in evaluation mode, `[3, h, w] -> [classes]`."""

    stem: Conv
    blocks: list[Block]
    head: Conv
    classifier: eqx.nn.Linear

    def __init__(self, arrays: Arrays):
        self.stem = Conv(arrays, "stem", "stem_norm", 2)
        self.blocks = [
            Block(arrays, f"blocks_{i}", layout) for i, layout in enumerate(BLOCKS)
        ]
        self.head = Conv(arrays, "head", "head_norm")
        kernel, bias = (arrays[f"params.classifier.{n}"] for n in ("kernel", "bias"))
        linear = eqx.nn.Linear(*kernel.shape, key=jax.random.key(0))
        self.classifier = eqx.tree_at(
            lambda layer: (layer.weight, layer.bias), linear, (kernel.T, bias)
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        x = relu6(self.stem(x))
        for block in self.blocks:
            x = block(x)
        return self.classifier(relu6(self.head(x)).mean((1, 2)))


def load(path: pathlib.Path) -> EfficientNetLite:
    """Returns the network with the weights of a file that `convert.py` wrote."""
    return EfficientNetLite(load_file(path))


if __name__ == "__main__":
    show_differences("Equinox", jax.vmap(load(weights_file())), channel_axis=1)
