"""How a config explains, by the options of the method `introspective`.

Used in training by that method, and in pictures whatever the method.
"""

from typing import Any

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from introspect_jax.errors import UserError, unknown
from introspect_jax.explain import baselines, norms
from introspect_jax.explain.attribution import METHODS
from introspect_jax.explain.paths import RULES
from introspect_jax.explain.similarity import SIMILARITIES
from introspect_jax.models import make_head, make_maps_head

# Samples, steps and probes: each is a pass of the network, written out in the program.
_MOST = 10_000


def explanation_options(
    config: ConfigDict,
    model: nn.Module,
    variables: Any,
    images: jax.Array,
    key: jax.Array,
) -> dict[str, Any]:
    """What `explain_fn` and `class_similarity` take to explain as `config` says.

    Args:
      config: of this method.
      model: the network that is explained.
      variables: its parameters and statistics.
      images: the batch, which also serves as the baselines of expected gradients.
      key: for what is drawn.
    """
    name = config.explanation
    options: dict[str, Any] = {
        "method": name,
        "center": config.center,
        "key": key,
        "chunk_size": config.chunk_size or None,
    }
    if name in ("smoothgrad", "smoothgrad_squared", "vargrad"):
        options |= {
            "num_samples": config.num_samples,
            "noise_level": config.noise_level,
        }
    elif name == "integrated_gradients":
        options |= {"num_steps": config.num_steps, "rule": config.rule}
    elif name == "expected_gradients":
        options |= {"num_samples": config.num_samples, "baselines": images}
    if name in ("integrated_gradients", "gradient_x_input"):
        options["baseline"] = config.baseline
    if name == "grad_cam":
        options["head"] = make_maps_head(model, variables)
    elif config.norms == "last_layer":
        options["head"] = make_head(model, variables)
    return options


def check_explanation(config: ConfigDict) -> None:
    """Raises a UserError for an explanation or similarity that cannot be."""
    for name, options in (
        ("explanation", METHODS),
        ("rule", RULES),
        ("baseline", baselines.NAMES),
        ("similarity", SIMILARITIES),
    ):
        if config[name] not in options:
            raise UserError(
                unknown(f"method.introspective.{name}", config[name], options)
            )
    try:
        kind, count = norms.parse(config.norms)
    except ValueError as error:
        raise UserError(f"method.introspective.norms: {error}") from error
    if count > _MOST:
        raise UserError(
            f"method.introspective.norms={config.norms}: at most {_MOST} of them"
        )
    if config.explanation == "grad_cam" and kind == "last_layer":
        raise UserError(
            "method.introspective.norms=last_layer is for gradients of the input; "
            "grad_cam explains feature maps: use exact, probes:s or top:m"
        )
    for name, low in (("num_samples", 1), ("num_steps", 1), ("chunk_size", 0)):
        if not low <= config[name] <= _MOST:
            raise UserError(
                f"method.introspective.{name} must lie in {low}..{_MOST}, got "
                f"{config[name]}"
            )
