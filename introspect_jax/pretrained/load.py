"""Networks from outside: a factory, a file of parameters and the names of classes."""

import json
import os
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
from ml_collections import ConfigDict

from introspect_jax import models
from introspect_jax.binding import check, for_pictures
from introspect_jax.config import default_config
from introspect_jax.data.images import RESIZE
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.doors import is_import_path
from introspect_jax.errors import UserError, unknown
from introspect_jax.paths import absolute
from introspect_jax.pretrained import files, fit, sidecar
from introspect_jax.trained import Trained


def load(
    params: str | os.PathLike,
    *,
    model: str | None = None,
    labels: str | os.PathLike | None = None,
    image_size: int | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: str | None = None,
) -> Trained:
    """Loads a trained network from a file of parameters.

    What is not given is taken from the file's sidecar (`pretrained.sidecar`), if there
    is one. Error messages name the flags of `launch/explain.py`.

    Args:
      params: A safetensors or msgpack file, or a folder of Orbax; see
        `pretrained.files`.
      model: Import path of its factory, `package.module:object`, or the name of a
        built-in network; see `models.build`.
      labels: File with the names of the classes, one a line, or a JSON list of them.
      image_size: Side of the images in pixels.
      channels: 3 (RGB, default) or 1 (grey levels).
      mean: Of pixels in [0, 1], for all channels or each; 0 by default.
      std: Standard deviation of pixels in [0, 1], likewise; 1 by default.
      resize: How images of other sizes are resized: `"bilinear"` (default) or
        `"bicubic"`.

    Returns:
      The network: `net.logits_fn(net.preprocess(pixels))` are the logits
      `[n, classes]` of pixels `[n, h, w, c]`, uint8.

    Raises:
      UserError: Something is missing or damaged, or the parts do not fit each other.
    """
    arrays = files.read(params)
    known = sidecar.read(absolute(params))
    beside = repr(str(sidecar.path_of(absolute(params))))
    names = known.get("classes") if labels is None else _read_labels(labels)
    if names is None:
        raise UserError("--labels is missing: a file with the name of a class a line")
    source = beside if labels is None else repr(str(labels))
    network = _network(known, model, len(names), beside)
    shape = _image_shape(known, image_size, channels)
    preprocess = _preprocess(known, shape, image_size, mean, std)
    resize = resize or known.get("preprocessing", {}).get("resize", "bilinear")
    if resize not in RESIZE:
        raise UserError(unknown("--resize", resize, RESIZE))
    seen = (*preprocess.size, shape[2])
    variables = fit.fit(
        arrays, network, seen, repr(str(params)), classes=(len(names), source)
    )
    try:
        models.check_logits(network, seen, len(names))
    except UserError as error:
        raise UserError(f"{source} names {len(names)} classes, and {error}") from error
    return Trained(
        model=network,
        variables=variables,
        preprocess=preprocess,
        class_names=tuple(names),
        image_shape=shape,
        dtype=known.get("dtype", "uint8"),
        explain=_explain(known, beside),
        resize=resize,
    )


def _network(
    known: dict[str, Any], model: str | None, count: int, beside: str
) -> nn.Module:
    """Builds the network of the flag or of the sidecar."""
    recorded = known.get("network", {})
    name = model or recorded.get("name")
    if name is None:
        raise UserError(
            "--model is missing, package.module:factory of the network; there is no "
            f"{beside} that names it"
        )
    where = "--model" if model else f"network of {beside}"
    if not is_import_path(name) and models.DOOR.find(name) is None:
        listed = unknown(where, name, models.DOOR.names())
        raise UserError(f"{listed}; or an import path, package.module:factory")
    # Options are those of the network that they were recorded for.
    options = recorded.get("options", {}) if name == recorded.get("name") else {}
    try:
        return models.build(name, count, **options)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
    except TypeError as error:  # of a value that a field of the config cannot hold
        if not options:
            raise
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{beside}: the network {name!r} cannot be built with the options "
            f"{options}: {reason}"
        ) from error


def _explain(known: dict[str, Any], beside: str) -> ConfigDict:
    """The explanation and similarity of the sidecar, or the defaults."""
    config = for_pictures(default_config()).lock()
    try:
        config.update(known.get("explain", {}))
        check(config, "explain.")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).strip("'\"").splitlines()[0]
        raise UserError(f"{beside}: 'explain' cannot be used: {reason}") from error
    return config


def _read_labels(path: str | os.PathLike) -> list[str]:
    """The names of the classes: a line each, or a JSON list."""
    found = absolute(path)
    try:
        text = found.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"--labels {str(path)!r} cannot be read ({error}); it is a text file "
            "with the name of a class a line"
        ) from error
    if found.suffix == ".json":
        try:
            names = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"--labels {str(path)!r} is not JSON ({error})") from error
        if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
            raise UserError(f"--labels {str(path)!r} must be a JSON list of names")
    else:
        names = text.rstrip().split("\n")  # `splitlines` splits at more than lines
    names = [name.strip() for name in names]
    if len(names) < 2 or not all(names):
        raise UserError(
            f"--labels {str(path)!r} must name at least 2 classes, one a line, none of "
            f"them empty; got {len(names)} lines"
        )
    return names


def _image_shape(
    known: dict[str, Any], side: int | None, channels: int | None
) -> tuple[int, int, int]:
    height, width, depth = known.get("image_shape", (0, 0, 3))
    if side is not None:
        height = width = side
    if min(height, width) < 1:
        raise UserError(
            "--image_size is missing or below 1: the side in pixels of the images that "
            f"the network was trained on; got {side}"
        )
    if channels is None:
        return height, width, depth
    if channels not in (1, 3):
        raise UserError(
            f"--channels must be 3 (RGB) or 1 (grey levels), got {channels}"
        )
    return height, width, channels


def _preprocess(
    known: dict[str, Any],
    shape: tuple[int, int, int],
    side: int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> Preprocess:
    recorded = known.get("preprocessing", {})
    height, width = recorded.get("size", shape[:2]) if side is None else shape[:2]
    values = {
        "mean": tuple(recorded.get("mean", (0.0,)) if mean is None else mean),
        "std": tuple(recorded.get("std", (1.0,)) if std is None else std),
    }
    for name, numbers in values.items():
        if len(numbers) not in (1, shape[2]):
            raise UserError(
                f"--{name} has {len(numbers)} values for {shape[2]} channels; give one "
                "for all or one each"
            )
        of_bytes = known.get("dtype", "uint8") == "uint8"
        if of_bytes and not all(0 <= number <= 1 for number in numbers):
            raise UserError(
                f"--{name} is of pixels in [0, 1], got {list(numbers)}; divide values "
                "of pixels in 0..255 by 255"
            )
    if min(values["std"]) <= 0:
        raise UserError(f"--std must be above 0, got {list(values['std'])}")
    if height > shape[0] or width > shape[1]:
        raise UserError(
            f"the network sees {[height, width]} pixels of images of {list(shape[:2])}"
        )
    return Preprocess((height, width), values["mean"], values["std"])
