"""A trained network with what is needed to use it, wherever it was trained."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from introspect_jax.data.preprocess import Preprocess
from introspect_jax.models import init_variables, make_logits_fn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    `restore.load` returns one of a run, and `pretrained.load` one of a file of
    parameters.

    Attributes:
      model: The network.
      variables: Its variables as it is deployed.
      preprocess: Pixels `[n, h, w, c]` as read -> its inputs.
      class_names: `[classes]`.
      image_shape: `(h, w, c)` of images as read.
      dtype: Of images as read, `"uint8"` or `"float32"`.
      explain: The explanation and similarity of its pictures, of
        `binding.for_pictures`.
      resize: How images of other sizes are resized to `image_shape`, a name of
        `data.images.RESIZE`.
    """

    model: nn.Module
    variables: Any
    preprocess: Preprocess
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int]
    dtype: str
    explain: ConfigDict
    resize: str = "bilinear"

    def logits_fn(self, inputs: jax.Array) -> jax.Array:
        """Logits `[n, classes]` of inputs `[n, h, w, c]`, in evaluation mode."""
        return make_logits_fn(self.model, self.variables)(inputs)

    def untrained(self, key: jax.Array) -> Any:
        """Variables of the same network with new random values."""
        size = (*self.preprocess.size, self.image_shape[2])
        init = jax.jit(lambda key: init_variables(self.model, size, key))
        params, state = init(key)
        return {"params": params, **state}
