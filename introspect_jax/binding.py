"""Builds the explanation and the similarity of a config for a network.

Used by the training method `introspective` and to draw explanations of networks trained
with any method.
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
    Projection,
    Similarity,
    Top,
)

# Each sample or step is a pass of the network, so training uses fewer of them than the
# library does for a single explanation.
_IN_TRAINING = {"num_samples": 8, "num_steps": 16}
# Limit of samples, steps and probes, which may be unrolled in the compiled program.
_MOST = 10_000
_NORMS = ("exact", "last_layer", "probes:s", "top:m")
# Placeholders for what a network and its data provide, used to check options alone.
_STAND_INS = {
    "baselines": np.zeros(1),
    "features_fn": lambda x: x,
    "head_fn": lambda x: x,
}


@dataclasses.dataclass(frozen=True)
class Bound:
    """Arguments for `explain_fn`, `class_similarity` and `introspect`.

    Attributes:
      explanation: Explanation with its hyperparameters.
      similarity: Similarity with its hyperparameters.
      options: Further keyword arguments of these functions.
    """

    explanation: Explanation
    similarity: Similarity
    options: dict[str, Any]

    @property
    def several(self) -> bool:
        """Whether more is explained of an example than its label: classes, probes."""
        one = self.similarity.passes == Projection().passes
        return not (one and self.explanation.linear)


def bind(
    config: ConfigDict, model: nn.Module, variables: Any, images: jax.Array
) -> Bound:
    """Builds the explanation and the similarity that a config names, for a network.

    Args:
      config: Config with the fields of `default_config`.
      model: Network.
      variables: Parameters and batch statistics of the network.
      images: Images that serve as the baselines of expected gradients.

    Raises:
      UserError: The network lacks a part that the explanation requires.
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
    """Fields that `bind` reads, with their defaults for training.

    `explanation` names one of `explain.EXPLANATIONS`. The numeric, string and boolean
    fields of each explanation form a group of its name.
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
            "chunk_size": 0,  # samples or steps at once; 0 for all
            "similarity": "projection",
            "norms": "exact",  # norms of the cosine
            "center": False,
        }
    )


def pictures_config() -> ConfigDict:
    """Returns `config.explain`, the fields for pictures, with the library's defaults.

    `explanation` and `similarity` are `""` by default, which stands for the fields of
    the training method, if it has them, or for gradient and projection.
    """
    config = default_config()
    for name, cls in EXPLANATIONS.items():
        for field, value in _fields(cls).items():
            config[name][field] = value
    config.explanation = config.similarity = ""
    config.chunk_size = 10  # bounds the memory
    return config


def check_pictures(config: ConfigDict) -> None:
    """Raises a UserError if `config.explain` is invalid; takes the whole config."""
    check(for_pictures(config), "explain.")


def for_pictures(config: ConfigDict) -> ConfigDict:
    """Returns `config.explain` with explanation and similarity filled in.

    Args:
      config: The whole config.
    """
    explain = ConfigDict(config.explain.to_dict())
    method = config.method.get(config.method.name, {})
    plain = default_config()
    for field in ("explanation", "similarity"):
        explain[field] = explain[field] or method.get(field, plain[field])
    return explain


def over_many(config: ConfigDict) -> ConfigDict:
    """Returns a copy of `for_pictures` for many images: numbers of samples and steps
    that are the library's defaults are replaced by those of training."""
    config = ConfigDict(config.to_dict())
    training, library = default_config(), pictures_config()
    for name, cls in EXPLANATIONS.items():
        for field in _fields(cls):
            if config[name][field] == library[name][field]:
                config[name][field] = training[name][field]
    return config


def needs(config: ConfigDict) -> list[str]:
    """Returns the optional methods of a network that `bind` requires."""
    required = _required(EXPLANATIONS[config.explanation])
    parts = {"features_fn": ["maps"], "head_fn": ["classify"]}
    found = [part for name in required for part in parts.get(name, [])]
    if config.similarity == "cosine" and config.norms == "last_layer":
        found += ["features", "last_layer"]
    return found


def takes_baselines(config: ConfigDict) -> bool:
    """Whether the explanation takes other images for baselines."""
    return "baselines" in _required(EXPLANATIONS[config.explanation])


def check(config: ConfigDict, prefix: str) -> None:
    """Raises a UserError for unknown options or values out of range.

    Args:
      config: Config with the fields of `default_config`.
      prefix: Prefix of the field names in error messages.
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
    """Maps the field names of all explanations to their defaults, for flags."""
    return {
        field: value
        for cls in EXPLANATIONS.values()
        for field, value in _fields(cls).items()
    }


def _fields(cls: type[Explanation]) -> dict[str, Any]:
    """Fields that a config can hold, with the library's defaults."""
    return {
        field.name: field.default
        for field in dataclasses.fields(cls)
        if isinstance(field.default, bool | int | float | str)
    }


def _required(cls: type[Explanation]) -> list[str]:
    """Names of the fields without a default: arrays and functions."""
    return [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING
    ]


def _parse_norms(norms: str, prefix: str) -> tuple[str, int]:
    """Parses `"probes:8"` as `("probes", 8)`; the count is 0 if there is none."""
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
