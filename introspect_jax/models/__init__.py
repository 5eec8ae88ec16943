"""Networks, one file each, selected by name or by import path.

A file defines `SUMMARY` (one line), `default_config()` (its options,
`config.model.<file>`) and `make(name, num_classes, config, *, dtype, remat)`, which
returns a Flax linen module that is called as `(images, train)`. A file that serves
several names also defines `NAMES` and `PATTERN`. To add a network, add its file; the
folder is scanned. `protocol.py` describes the optional methods of a network.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from introspect_jax import options as checks
from introspect_jax.doors import Door, is_import_path
from introspect_jax.errors import UserError, nearest
from introspect_jax.models import from_outside
from introspect_jax.models.classifier import Classifier
from introspect_jax.models.protocol import (
    init_variables,
    last_layer,
    make_classify_fn,
    make_features_fn,
    make_logits_fn,
    make_maps_fn,
    offers,
    stage_shapes,
)

__all__ = [
    "DOOR",
    "Classifier",
    "build",
    "check",
    "check_logits",
    "default_config",
    "from_config",
    "identity",
    "init_variables",
    "last_layer",
    "make_classify_fn",
    "make_features_fn",
    "make_logits_fn",
    "make_maps_fn",
    "offers",
    "options",
    "stage_shapes",
]

DOOR = Door(__name__, "model")
_DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def default_config() -> ConfigDict:
    """Returns `config.model`: common fields, and a group of options per network."""
    return ConfigDict(
        {
            "name": "resnet20",
            "dtype": "float32",  # of activations; parameters are float32
            "remat": False,  # blocks are computed again for gradients: less memory
            "options": {},  # of a network that is named by its import path
            **{name: m.default_config() for name, m in DOOR.entries.items()},
        }
    )


def check(config: ConfigDict) -> None:
    """Raises a UserError if the network of the whole config is invalid."""
    DOOR.check_options(config.model)
    from_config(config.model, 2)


def from_config(config: ConfigDict, num_classes: int) -> nn.Module:
    """Builds the network that `config.model` names.

    Raises:
      UserError: Unknown names, options or values out of range.
    """
    checks.check_choice("model.", config, dtype=_DTYPES)
    dtype, remat = _DTYPES[config.dtype], config.remat
    if is_import_path(config.name):
        return from_outside.build(
            config.name, num_classes, config.options, dtype=dtype, remat=remat
        )
    file, module = DOOR.get(config.name)
    return module.make(config.name, num_classes, config[file], dtype=dtype, remat=remat)


def identity(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `config.model` that define the network: without `dtype`,
    `remat` and the options of other networks."""
    prefix, own = _own_options(config)
    return {"name": config.name, **{f"{prefix}.{n}": v for n, v in own.items()}}


def options(config: ConfigDict) -> dict[str, Any]:
    """Returns the options with which `build` makes the network of `config.model`."""
    _, own = _own_options(config)
    return {"dtype": config.dtype, "remat": config.remat, **own}


def _own_options(config: ConfigDict) -> tuple[str, dict[str, Any]]:
    """Name and fields of the group of options of the network."""
    if is_import_path(config.name):
        return "options", dict(config.options)
    file, _ = DOOR.get(config.name)
    return file, dict(config[file])


def build(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Builds a network by name, without a config.

    Args:
      name: Name that `--config.model.name=help` lists, or an import path.
      num_classes: Number of outputs.
      **options: `dtype` (`"float32"` or `"bfloat16"`), `remat`, and the options of the
        network.

    Raises:
      UserError: Unknown names, options or values out of range.

    >>> build("resnet18", 10, stem="small", norm="group").num_classes
    10
    """
    config = default_config()
    config.name = name
    config.options.unlock()
    found = None if is_import_path(name) else DOOR.get(name)
    own = config[found[0]] if found else config.options
    for option, value in options.items():
        if option in ("dtype", "remat"):
            config[option] = value
            continue
        if found and option not in own:
            raise UserError(
                f"model {name!r} has no option {option!r}{nearest(option, own)}; its "
                f"options: {', '.join(['dtype', 'remat', *own])}"
            )
        own[option] = value
    return from_config(config, num_classes)


def check_logits(
    model: nn.Module, image_shape: tuple[int, int, int], num_classes: int
) -> None:
    """Raises a UserError if the network does not return logits `[batch, classes]`.

    Only shapes are computed.
    """

    def logits(key: jax.Array) -> Any:
        params, state = init_variables(model, image_shape, key)
        images = jnp.zeros((2, *image_shape), jnp.float32)
        return model.apply({"params": params, **state}, images, train=False)

    found = jax.eval_shape(logits, jax.random.key(0))
    if getattr(found, "shape", None) != (2, num_classes):
        shape = getattr(found, "shape", type(found).__name__)
        raise UserError(
            f"the network gives {shape} for 2 images of {image_shape}; it must give "
            f"logits of shape {(2, num_classes)}: factory(num_classes, ...) is called "
            f"with {num_classes}"
        )
