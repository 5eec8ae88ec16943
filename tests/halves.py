"""A Flax NNX network in stages, found by its import path."""

import jax.numpy as jnp
from flax import nnx

from introspect_jax.models import from_outside


class Halves(nnx.Module):
    """Two convolutions, each of them a stage."""

    def __init__(self, num_classes, *, rngs):
        self.first = nnx.Conv(1, 4, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.second = nnx.Conv(4, 8, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(8, num_classes, rngs=rngs)

    def trunk(self, images):
        return nnx.relu(self.norm(self.first(images)))

    def stages(self, images):
        shared = self.trunk(images)
        return shared, nnx.relu(self.second(shared))

    def classify(self, maps):
        return self.head(jnp.mean(maps, axis=(1, 2)))

    def last_stage(self, maps):
        return self.classify(nnx.relu(self.second(maps)))

    def __call__(self, images):
        return self.last_stage(self.trunk(images))


def build_halves(num_classes):
    """The linen network around it."""
    return from_outside.build("halves:Halves", num_classes, {})
