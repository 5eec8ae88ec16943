"""Networks (Flax linen), chosen by name."""

import re
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax.errors import UserError, unknown
from introspect_jax.models.classifier import NORMS, Classifier
from introspect_jax.models.resnet import ResNet
from introspect_jax.models.small_resnet import SmallResNet
from introspect_jax.models.wide_resnet import WideResNet

__all__ = [
    "NAMES",
    "Classifier",
    "build",
    "last_layer",
    "make_classify_fn",
    "make_features_fn",
    "make_logits_fn",
    "make_maps_fn",
]

Function = Callable[[jax.Array], jax.Array]
_SMALL_DEPTHS = (8, 20, 32, 44, 56, 110)
_IMAGENET_DEPTHS = (18, 34, 50)
NAMES = (
    *(f"resnet{d}" for d in _SMALL_DEPTHS),
    "wrn<d>_<k> (d = 6n + 4, as in wrn28_10)",
    *(f"resnet{d}" for d in _IMAGENET_DEPTHS),
)
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
_STEMS = ("small", "imagenet")


def build(
    name: str,
    num_classes: int,
    *,
    stem: str = "small",
    dtype: str = "float32",
    remat: bool = False,
    norm: str = "batch",
) -> Classifier:
    """The network of that name.

    Args:
      name: see `NAMES`: `resnet8` to `resnet110` are those for small images (He et al.
        2016, section 4.2), `wrn<d>_<k>` are Wide ResNets, `resnet18`, `34` and `50`
        those of ImageNet.
      num_classes: outputs.
      stem: of `resnet18`, `34` and `50`: `"small"` (3x3, for images of up to about 64
        pixels) or `"imagenet"` (7x7 with stride 2, then max-pooling).
      dtype: of the activations, `"float32"` or `"bfloat16"`. Parameters, batch
        statistics and the last layer are float32 whatever it is.
      remat: whether blocks are computed again when gradients need what is inside of
        them, instead of being kept. The numbers are the same.
      norm: `"batch"` or `"group"` normalisation.

    Raises:
      UserError: a name, stem, dtype or norm that does not exist.
    """
    if norm not in NORMS:
        raise UserError(unknown("model norm", norm, NORMS))
    if dtype not in _DTYPES:
        raise UserError(unknown("model dtype", dtype, _DTYPES))
    if stem not in _STEMS:
        raise UserError(unknown("model stem", stem, _STEMS))
    kind = _DTYPES[dtype]
    backbone: nn.Module
    if wide := re.fullmatch(r"wrn(\d{1,4})_(\d{1,4})", name):
        depth, width = int(wide[1]), int(wide[2])
        if depth < 10 or depth % 6 != 4 or width < 1:
            raise UserError(
                f"model {name!r}: the depth must be 6n + 4 (10, 16, 22, 28, ...) and "
                f"the width at least 1, got {depth} and {width}"
            )
        backbone = WideResNet((depth - 4) // 6, width, kind, remat, norm)
    elif (match := re.fullmatch(r"resnet(\d+)", name)) and int(match[1]) in (
        *_SMALL_DEPTHS,
        *_IMAGENET_DEPTHS,
    ):
        depth = int(match[1])
        if depth in _SMALL_DEPTHS:
            backbone = SmallResNet((depth - 2) // 6, kind, remat, norm)
        else:
            backbone = ResNet(depth, stem == "small", kind, remat, norm)
    else:
        raise UserError(unknown("model", name, NAMES))
    return Classifier(backbone, num_classes)


def make_logits_fn(model: nn.Module, variables: Any) -> Function:
    """The pure function `images [batch, h, w, c] -> logits [batch, classes]`.

    It runs with the running statistics and changes nothing, so an example's logits do
    not depend on its batch: what `explain_fn` and `introspect` need.

    Args:
      model: a network whose call takes `train`.
      variables: `{"params": ..., "batch_stats": ...}`.
    """

    def logits_fn(images: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, images, train=False))

    return logits_fn


def make_maps_fn(model: nn.Module, variables: Any) -> Function:
    """`images [batch, h, w, c] -> last feature maps [batch, h', w', d]`.

    Args:
      model: a network with `maps`, see `Classifier`.
      variables: as for `make_logits_fn`.

    Raises:
      UserError: a network without it.
    """
    return _part(model, variables, "maps", train=False)


def make_classify_fn(model: nn.Module, variables: Any) -> Function:
    """`last feature maps -> logits [batch, classes]`, the rest of the network.

    Args:
      model: a network with `classify`, see `Classifier`.
      variables: as for `make_logits_fn`.

    Raises:
      UserError: a network without it.
    """
    return _part(model, variables, "classify")


def make_features_fn(model: nn.Module, variables: Any) -> Function:
    """`images [batch, h, w, c] -> features [batch, d]` before the last linear layer.

    Args:
      model: a network with `features`, see `Classifier`.
      variables: as for `make_logits_fn`.

    Raises:
      UserError: a network without it.
    """
    return _part(model, variables, "features", train=False)


def last_layer(model: nn.Module, variables: Any) -> tuple[jax.Array, jax.Array]:
    """Kernel `[d, classes]` and bias `[classes]` of the last linear layer.

    Args:
      model: a network with `last_layer`, see `Classifier`.
      variables: as for `make_logits_fn`.

    Raises:
      UserError: a network without it.
    """
    _check_part(model, "last_layer")
    kernel, bias = cast(Any, model).last_layer(variables)
    return kernel, bias


def _part(model: nn.Module, variables: Any, name: str, **arguments: Any) -> Function:
    _check_part(model, name)

    def function(x: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, x, method=name, **arguments))

    return function


def _check_part(model: nn.Module, name: str) -> None:
    if not callable(getattr(model, name, None)):
        raise UserError(
            f"the network {type(model).__name__} has no {name!r}, which this "
            "explanation or similarity needs: give it that method, as "
            "introspect_jax.models.Classifier has it, or choose another explanation"
        )
