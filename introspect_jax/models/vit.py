"""Vision Transformers with global average pooling.

The architecture is that of Dosovitskiy et al. 2021 (arXiv 2010.11929): pre-norm blocks
of multi-head self-attention and an MLP, learned position embeddings and a final layer
normalisation. As in Beyer et al. 2022 (arXiv 2205.01580), the mean over the patches
replaces the class token. The last maps keep the grid of the patches, so that Grad-CAM
applies.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.models.classifier import Classifier, Stages, run_block

SUMMARY = (
    "Vision Transformer, average-pooled (Dosovitskiy et al. 2021, Beyer et al. 2022)"
)
NAMES = ("vit", "vit_ti4", "vit_s4", "vit_ti16", "vit_s16", "vit_b16")
PATTERN = r"vit(_(ti|s|b)[1-9]\d{0,2})?"

_PLAIN = {"patch": 4, "depth": 6, "width": 192, "heads": 3}
_SIZES = {
    "ti": {"depth": 12, "width": 192, "heads": 3},
    "s": {"depth": 12, "width": 384, "heads": 6},
    "b": {"depth": 12, "width": 768, "heads": 12},
}
# Far above any useful value: a mistyped number fails at once instead of exhausting the
# memory or the compiler.
_LARGEST = {"patch": 1024, "depth": 1000, "width": 16384, "heads": 1024}
_MLP_RATIO = 4
_KERNEL_INIT = nn.initializers.xavier_uniform()


def default_config() -> ConfigDict:
    """Options of the Vision Transformers.

    The name determines the architecture: `vit_<ti|s|b><patch>` has the width, depth and
    heads of ViT-Ti (192, 12, 3), ViT-S (384, 12, 6) or ViT-B (768, 12, 12), and `vit`
    is a compact one for small images (patch 4; 192, 6, 3).

    * `patch`, `depth`, `width`, `heads`: replace the value of the name; 0 keeps it.
    * `dropout`: rate in [0, 1), applied in training after the position embedding, to
      the output of the attention and to both layers of the MLP.
    * `stochastic_depth`: rate in [0, 1) at which training drops the residual branches
      of the last block, for each example separately (Huang et al. 2016). The rate rises
      linearly from 0 at the first block. Branches that stay are divided by the
      probability of staying.
    """
    return ConfigDict(
        {
            "patch": 0,
            "depth": 0,
            "width": 0,
            "heads": 0,
            "dropout": 0.0,
            "stochastic_depth": 0.0,
        }
    )


def make(
    name: str, num_classes: int, config: ConfigDict, *, dtype: Any, remat: bool
) -> Classifier:
    """Builds the network.

    Args:
      name: One of `NAMES`, or another match of `PATTERN`.
      num_classes: Number of outputs.
      config: Options, see `default_config`.
      dtype: Type of the activations. Parameters, the statistics of the layer
        normalisations and the softmax of the attention are float32.
      remat: Whether to recompute the blocks in the backward pass to save memory.

    Raises:
      UserError: An unknown name, or an option that is out of range.
    """
    match = re.fullmatch(PATTERN, name)
    if match is None:
        raise UserError(unknown("model", name, NAMES))
    sizes = dict(_PLAIN)
    if match[1]:
        sizes = {"patch": int(name.removeprefix(f"vit_{match[2]}"))}
        sizes |= _SIZES[match[2]]
    for field in sizes:
        sizes[field] = _override(field, config[field], sizes[field])
    if sizes["width"] % sizes["heads"]:
        raise UserError(
            "model.vit.width must be divisible by model.vit.heads, got "
            f"{sizes['width']} and {sizes['heads']} for {name!r}: change one of them"
        )
    for field in ("dropout", "stochastic_depth"):
        if not 0 <= config[field] < 1:
            raise UserError(f"model.vit.{field} must be in [0, 1), got {config[field]}")
    backbone = ViT(
        patch=sizes["patch"],
        depth=sizes["depth"],
        width=sizes["width"],
        heads=sizes["heads"],
        dropout=config.dropout,
        stochastic_depth=config.stochastic_depth,
        dtype=dtype,
        remat=remat,
    )
    return Classifier(backbone, num_classes)


def _override(field: str, value: int, default: int) -> int:
    if not 0 <= value <= _LARGEST[field]:
        raise UserError(
            f"model.vit.{field} must be between 1 and {_LARGEST[field]}, or 0 for "
            f"that of the name, got {value}"
        )
    return value or default


class ViT(nn.Module):
    """Images `[batch, h, w, c]` to maps `[batch, h / patch, w / patch, width]`.

    In training, the random numbers come from the stream `dropout`. The grid never
    changes, so the four stages are quarters of the blocks. The embedding belongs to the
    first, the final normalisation to the last.

    Attributes:
      patch: Side of a patch, in pixels.
      depth: Number of blocks.
      width: Number of channels.
      heads: Number of attention heads; divides `width`.
      dropout: See `default_config`.
      stochastic_depth: See `default_config`.
      dtype: Type of the activations.
      remat: See `make`.
    """

    patch: int
    depth: int
    width: int
    heads: int
    dropout: float = 0.0
    stochastic_depth: float = 0.0
    dtype: Any = jnp.float32
    remat: bool = False

    @property
    def num_stages(self) -> int:
        return min(4, self.depth)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool, stages: Stages | None = None
    ) -> jax.Array:
        first, last = stages or (0, self.num_stages)
        if first == 0:
            x = self._embed(x)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height * width, channels)
        if first == 0:
            x = _dropout(self, x, train, "embedding_dropout")
        begin, end = (self.depth * stage // self.num_stages for stage in (first, last))
        for block in range(begin, end):
            # A single block is the last one, and has the full rate.
            share = block / (self.depth - 1) if self.depth > 1 else 1.0
            rate = self.stochastic_depth * share
            x = run_block(self, _block, x, train, rate, f"block{block}")
        if last == self.num_stages:
            x = _layer_norm(self, "final_norm")(x)
        return x.reshape(batch, height, width, channels)

    def _embed(self, images: jax.Array) -> jax.Array:
        height, width = images.shape[1:3]
        if height % self.patch or width % self.patch:
            raise UserError(
                "the sides of the images must be divisible by the patch, got images of "
                f"{height}x{width} and patches of {self.patch}: change model.vit.patch "
                "or the size of the images"
            )
        side = (self.patch, self.patch)
        x = nn.Conv(
            self.width, side, side, padding="VALID", dtype=self.dtype, name="patches"
        )(images)
        # With two spatial dimensions, parameters for another grid with as many patches
        # do not fit by accident.
        position = self.param(
            "position", nn.initializers.normal(0.02), (1, *x.shape[1:])
        )
        return x + position.astype(x.dtype)


def _block(self: ViT, x: jax.Array, train: bool, rate: float, name: str) -> jax.Array:
    """Attention, then the MLP: two residual branches, dropped independently."""

    def keep(branch: jax.Array, label: str) -> jax.Array:
        return nn.Dropout(
            rate,
            broadcast_dims=(1, 2),
            deterministic=not train,
            name=f"{name}_{label}_depth",
        )(branch)

    y = _attention(self, _layer_norm(self, f"{name}_norm0")(x), name)
    x = x + keep(_dropout(self, y, train, f"{name}_out_dropout"), "out")
    y = _layer_norm(self, f"{name}_norm1")(x)
    y = nn.gelu(_dense(self, _MLP_RATIO * self.width, f"{name}_mlp0")(y))
    y = _dropout(self, y, train, f"{name}_mlp0_dropout")
    y = _dense(self, self.width, f"{name}_mlp1")(y)
    return x + keep(_dropout(self, y, train, f"{name}_mlp1_dropout"), "mlp")


def _attention(self: ViT, x: jax.Array, name: str) -> jax.Array:
    """Multi-head self-attention of tokens `[batch, n, width]`.

    Written as plain matrix products and a softmax: class similarities transpose the
    VJP, and training through explanations needs second derivatives. Fused attention
    kernels seldom support either.
    """
    batch, tokens, width = x.shape
    per_head = width // self.heads

    def project(part: str) -> jax.Array:
        y = _dense(self, width, f"{name}_{part}")(x)
        return y.reshape(batch, tokens, self.heads, per_head)

    query, key, value = project("query"), project("key"), project("value")
    scores = jnp.einsum("bqhd,bkhd->bhqk", query * per_head**-0.5, key)
    # The softmax sums over all tokens, which bfloat16 is too coarse for.
    wide = jnp.promote_types(scores.dtype, jnp.float32)
    weights = nn.softmax(scores.astype(wide), axis=-1).astype(scores.dtype)
    y = jnp.einsum("bhqk,bkhd->bqhd", weights, value)
    return _dense(self, width, f"{name}_out")(y.reshape(batch, tokens, width))


def _dense(self: ViT, features: int, name: str) -> nn.Dense:
    return nn.Dense(features, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=name)


def _layer_norm(self: ViT, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=1e-6, dtype=self.dtype, name=name)


def _dropout(self: ViT, x: jax.Array, train: bool, name: str) -> jax.Array:
    return nn.Dropout(self.dropout, deterministic=not train, name=name)(x)
