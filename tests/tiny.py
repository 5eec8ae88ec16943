"""Networks that compile in a second, found by their import paths."""

import flax.linen as nn

from introspect_jax.models import Classifier
from introspect_jax.models.classifier import batch_norm, conv

# For `config.model.name`.
TINY = "tiny:build_tiny"


class TinyBackbone(nn.Module):
    """Two convolutions and two batch normalisations: compiles in a second."""

    width: int = 4
    stride: int = 2
    num_stages = 2

    @nn.compact
    def __call__(self, x, train, stages=(0, 2)):
        for i in range(*stages):
            width = (self.width, 8)[i]
            stride = self.stride if i == 0 else 2
            x = conv(width, 3, stride, None, f"conv{i}")(x)
            x = nn.relu(batch_norm(train, None, f"norm{i}")(x))
        return x


def build_tiny(num_classes: int) -> Classifier:
    """A network with everything that the protocol knows."""
    return Classifier(TinyBackbone(), num_classes)


def build_another(num_classes: int) -> Classifier:
    """The same by another name."""
    return build_tiny(num_classes)


def build_paired(num_classes: int) -> Classifier:
    """Its first convolution is one that CPUs compute by pairs of columns."""
    return Classifier(TinyBackbone(stride=1), num_classes)


def build_wider(num_classes: int) -> Classifier:
    """Another network, which code may have become that is found by an old name."""
    return Classifier(TinyBackbone(width=6), num_classes)
