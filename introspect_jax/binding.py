"""From a config to explanation and similarity, bound to a network.

Used by training (method `introspective`) and by pictures, whatever the method.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import models
from introspect_jax.errors import UserError, unknown
from introspect_jax.explain import (
    EXPLANATIONS,
    SIMILARITIES,
    Exact,
    Explanation,
    LastLayer,
    Probes,
    Similarity,
    Top,
)

# Each sample or step is a pass of the network: in training as many as are affordable,
# for a single explanation as many as the library takes.
_IN_TRAINING = {"num_samples": 8, "num_steps": 16}
# Samples, steps and probes: each is written out in the program.
_MOST = 10_000
_NORMS = ("exact", "last_layer", "probes:s", "top:m")
# For what only a network and its data give, while options are checked without them.
_STAND_INS = {
    "baselines": np.zeros(1),
    "features_fn": lambda x: x,
    "head_fn": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """What `explain_fn`, `class_similarity` and `introspect` take.

    Attributes:
      explanation: their argument of that name.
      similarity: likewise.
      options: keyword arguments.
    """

    explanation: Explanation
    similarity: Similarity
    options: dict[str, Any]


def bind(
    config: ConfigDict, model: nn.Module, variables: Any, images: jax.Array
) -> Bound:
    """The explanation and the similarity that a config names, for a network.

    Args:
      config: with the fields of `default_config`.
      model: the network.
      variables: its parameters and statistics.
      images: the batch, which also serves as the baselines of expected gradients.

    Raises:
      UserError: a network without the part that the explanation needs.
    """
    offered: dict[str, Callable[[], Any]] = {
        "baselines": lambda: images,
        "features_fn": lambda: models.make_maps_fn(model, variables),
        "head_fn": lambda: models.make_classify_fn(model, variables),
    }
    cls = EXPLANATIONS[config.explanation]
    required = {name: offered[name]() for name in _required(cls)}
    explanation = cls(**required, **config.get(config.explanation, {}))
    kind = SIMILARITIES[config.similarity]
    norms: dict[str, Any] = {}
    if any(field.name == "norms" for field in dataclasses.fields(kind)):
        norms["norms"] = _norms(config.norms, model, variables)
    similarity = kind(**norms)
    options = {"center": config.center, "chunk_size": config.chunk_size or None}
    return Bound(explanation, similarity, options)


def default_config() -> ConfigDict:
    """The fields that `bind` reads, with their defaults in training.

    `explanation` names one of `explain.EXPLANATIONS`, whose own fields, where they are
    numbers, strings or switches, are in a group of its name.
    """
    groups = {
        name: {f: _IN_TRAINING.get(f, value) for f, value in _fields(cls).items()}
        for name, cls in EXPLANATIONS.items()
        if _fields(cls)
    }
    return ConfigDict(
        {
            "explanation": "gradient",
            **groups,
            "chunk_size": 0,  # samples or steps at once; 0 is all
            "similarity": "projection",
            "norms": "exact",  # of the cosine
            "center": False,
        }
    )


def for_pictures(config: ConfigDict, chunk_size: int = 10) -> ConfigDict:
    """A copy for single images: the library's defaults in place of training's.

    Args:
      config: with the fields of `default_config`; what was set there is kept.
      chunk_size: samples or steps at once, for memory.
    """
    config = config.copy_and_resolve_references()
    training = default_config()
    with config.unlocked():
        for name, cls in EXPLANATIONS.items():
            for field, value in _fields(cls).items():
                if config[name][field] == training[name][field]:
                    config[name][field] = value
        config.chunk_size = config.chunk_size or chunk_size
    return config


def check(config: ConfigDict, prefix: str = "method.introspective.") -> None:
    """Raises a UserError for options that do not exist or are out of range.

    Args:
      config: with the fields of `default_config`.
      prefix: of the names of its fields, for messages.
    """
    for field, options in (("explanation", EXPLANATIONS), ("similarity", SIMILARITIES)):
        if config[field] not in options:
            raise UserError(unknown(f"{prefix}{field}", config[field], options))
    for name, cls in EXPLANATIONS.items():
        values = dict(config.get(name, {}))
        for field, value in values.items():
            if type(value) is int and not value <= _MOST:
                raise UserError(
                    f"{prefix}{name}.{field} must be at most {_MOST}, got {value}"
                )
        try:
            cls(**{field: _STAND_INS[field] for field in _required(cls)}, **values)
        except ValueError as error:
            raise UserError(f"{prefix}{name}: {error}") from error
    kind, count = _parse_norms(config.norms, prefix)
    if count > _MOST:
        raise UserError(f"{prefix}norms={config.norms}: at most {_MOST} of them")
    maps_explained = "features_fn" in _required(EXPLANATIONS[config.explanation])
    if kind == "last_layer" and maps_explained and config.similarity == "cosine":
        raise UserError(
            f"{prefix}norms=last_layer is for explanations of the input; "
            f"{config.explanation} explains feature maps: use exact, probes:s or top:m"
        )
    if not 0 <= config.chunk_size <= _MOST:
        raise UserError(
            f"{prefix}chunk_size must lie in 0..{_MOST}, got {config.chunk_size}"
        )


def explanation_fields() -> dict[str, Any]:
    """Name -> default of the fields of all explanations, for flags."""
    return {
        field: value
        for cls in EXPLANATIONS.values()
        for field, value in _fields(cls).items()
    }


def _fields(cls: type[Explanation]) -> dict[str, Any]:
    """The fields that a config can hold, with the library's defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if isinstance(field.default, bool | int | float | str)
    }


def _required(cls: type[Explanation]) -> list[str]:
    """The fields without a default: arrays and functions."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING
    ]


def _parse_norms(norms: str, prefix: str) -> tuple[str, int]:
    """`"probes:8"` as `("probes", 8)`; 0 where there is no number."""
    kind, _, count = norms.partition(":")
    if norms in ("exact", "last_layer"):
        return kind, 0
    if kind not in ("probes", "top") or not count.isdecimal() or int(count) < 1:
        raise UserError(unknown(f"{prefix}norms", norms, _NORMS))
    return kind, int(count)


def _norms(norms: str, model: nn.Module, variables: Any) -> Any:
    kind, count = _parse_norms(norms, "")
    if kind == "exact":
        return Exact()
    if kind == "last_layer":
        kernel, _ = models.last_layer(model, variables)
        return LastLayer(models.make_features_fn(model, variables), kernel)
    return Probes(count) if kind == "probes" else Top(count)
