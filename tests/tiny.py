"""A network that compiles in a second."""

import flax.linen as nn

from introspect_jax.models.classifier import Classifier, batch_norm, conv


class TinyBackbone(nn.Module):
    """Two convolutions and two batch normalisations: compiles in a second."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.relu(batch_norm(train, None, "norm0")(conv(4, 3, 2, None, "conv0")(x)))
        return nn.relu(
            batch_norm(train, None, "norm1")(conv(8, 3, 2, None, "conv1")(x))
        )


def build_tiny(name: str, num_classes: int, **options) -> Classifier:
    """In place of `models.build`, whatever the name."""
    del name, options
    return Classifier(TinyBackbone(), num_classes)
