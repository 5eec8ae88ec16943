"""The same network and weights in Flax NNX, and the same explanations.

    python examples/pretrained/nnx_net.py

prints how they differ from linen's. The lines that differ, and those of linen:

    network = load(weights_file())  # pretrained.load(...)
    maps = explain_fn(network, inputs, labels)  # network.logits_fn
    rows = class_similarity(network, inputs, labels)  # likewise

The module is in evaluation mode: `use_running_average=True`.
"""

import pathlib

import jax
from efficientnet_lite import (
    BLOCKS,
    EPSILON,
    HEAD,
    STEM,
    Layout,
    depthwise,
    weights_file,
)
from flax import nnx
from flax.traverse_util import unflatten_dict
from linen_results import show_differences
from safetensors.flax import load_file


def _conv(
    inputs: int, outputs: int, size: int, stride: int, rngs: nnx.Rngs
) -> nnx.Conv:
    return nnx.Conv(inputs, outputs, (size, size), stride, use_bias=False, rngs=rngs)


def _norm(features: int, rngs: nnx.Rngs) -> nnx.BatchNorm:
    return nnx.BatchNorm(features, use_running_average=True, epsilon=EPSILON, rngs=rngs)


class Depthwise(nnx.Module):
    def __init__(self, features: int, size: int, stride: int, rngs: nnx.Rngs):
        shape = (size, size, 1, features)
        self.kernel = nnx.Param(nnx.initializers.he_normal()(rngs.params(), shape))
        self.stride = stride

    def __call__(self, x: jax.Array) -> jax.Array:
        return depthwise(x, self.kernel[...], self.stride)


class Block(nnx.Module):
    def __init__(self, inputs: int, layout: Layout, rngs: nnx.Rngs):
        size, stride, expansion, features = layout
        inside = expansion * inputs
        if expansion > 1:
            self.expand = _conv(inputs, inside, 1, 1, rngs)
            self.expand_norm = _norm(inside, rngs)
        self.depthwise = Depthwise(inside, size, stride, rngs)
        self.depthwise_norm = _norm(inside, rngs)
        self.project = _conv(inside, features, 1, 1, rngs)
        self.project_norm = _norm(features, rngs)
        self.expands = expansion > 1

    def __call__(self, x: jax.Array) -> jax.Array:
        y = nnx.relu6(self.expand_norm(self.expand(x))) if self.expands else x
        y = nnx.relu6(self.depthwise_norm(self.depthwise(y)))
        y = self.project_norm(self.project(y))
        return x + y if x.shape == y.shape else y


class EfficientNetLite(nnx.Module):
    """EfficientNet-Lite0 in evaluation mode, `[n, h, w, 3] -> [n, classes]`."""

    def __init__(self, num_classes: int, rngs: nnx.Rngs):
        self.stem = _conv(3, STEM, 3, 2, rngs)
        self.stem_norm = _norm(STEM, rngs)
        features = STEM
        for i, layout in enumerate(BLOCKS):  # named as in the file
            setattr(self, f"blocks_{i}", Block(features, layout, rngs))
            features = layout.features
        self.head = _conv(features, HEAD, 1, 1, rngs)
        self.head_norm = _norm(HEAD, rngs)
        self.classifier = nnx.Linear(HEAD, num_classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu6(self.stem_norm(self.stem(x)))
        for i in range(len(BLOCKS)):
            x = getattr(self, f"blocks_{i}")(x)
        x = nnx.relu6(self.head_norm(self.head(x)))
        return self.classifier(x.mean((1, 2)))


def load(path: pathlib.Path) -> EfficientNetLite:
    """Returns the network with the weights of a file that `convert.py` wrote."""
    arrays = load_file(path)
    classes = arrays["params.classifier.bias"].size
    network = nnx.eval_shape(lambda: EfficientNetLite(classes, nnx.Rngs(0)))
    state = nnx.state(network)
    # Without "params" and "batch_stats", which are types of variables here.
    names = {tuple(name.split(".")[1:]): array for name, array in arrays.items()}
    nnx.replace_by_pure_dict(state, unflatten_dict(names))
    nnx.update(network, state)
    return network


if __name__ == "__main__":
    show_differences("NNX", load(weights_file()))
