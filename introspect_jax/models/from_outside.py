"""Networks from import paths: Flax linen, and Flax NNX with linen's interface."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

import flax.linen as nn
import jax

from introspect_jax import options as checks
from introspect_jax.doors import load_object
from introspect_jax.errors import UserError
from introspect_jax.models.protocol import STAGED

_PARTS = ("maps", "classify", "features", "last_layer", "prepare", *STAGED)


def build(
    path: str, num_classes: int, options: Mapping[str, Any], **handed: Any
) -> nn.Module:
    """Builds the network of an import path.

    Args:
      path: Import path of `factory(num_classes, **options)`, which returns a linen
        module called as `(images, train)`; or of `factory(num_classes, rngs=rngs,
        **options)`, which returns an NNX module called as `(images)`, in the mode of
        its `train()` or `eval()`.
      num_classes: Outputs.
      options: `config.model.options`.
      **handed: Arguments passed only to factories that take them, such as `dtype`.

    Raises:
      UserError: The path does not exist, the factory does not take the options, or the
        result is not a network.
    """
    factory = load_object(path, "model")
    handed = {name: v for name, v in handed.items() if checks.takes(factory, name)}
    arguments = {"path": path, "field": "model", "options": options, **handed}
    if checks.takes(factory, "rngs"):
        return _from_nnx(factory, num_classes, arguments)
    model = checks.call(factory, num_classes, **arguments)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"model.name={path!r} returned {type(model).__name__}, not a Flax linen "
            "module; a factory of NNX modules takes rngs: factory(num_classes, "
            "rngs=rngs)"
        )
    if "train" not in inspect.signature(type(model).__call__).parameters:
        raise UserError(
            f"model.name={path!r}: the call of {type(model).__name__} must take "
            "(images, train)"
        )
    return model


def _from_nnx(
    factory: Callable[..., Any], num_classes: int, arguments: dict[str, Any]
) -> nn.Module:
    from flax import nnx  # late: most runs need linen alone

    def made(rngs: Any) -> Any:
        return checks.call(factory, num_classes, rngs=rngs, **arguments)

    kinds: list[type] = []

    def note() -> None:
        kinds.append(type(made(nnx.Rngs(0))))

    nnx.eval_shape(note)
    kind = kinds[0]
    if not issubclass(kind, nnx.Module):
        raise UserError(
            f"model.name={arguments['path']!r} takes rngs, and returned "
            f"{kind.__name__}, not a Flax NNX module"
        )
    parts = tuple(part for part in _PARTS if callable(getattr(kind, part, None)))
    return NNXNetwork(made, kind.__name__, parts)


class NNXNetwork(nn.Module):
    """An NNX module with the call and the optional methods of a linen network.

    Attributes:
      factory: `rngs -> module`.
      title: Name of the module's class.
      parts: Names of its optional methods.
    """

    factory: Callable[..., Any]
    title: str
    parts: tuple[str, ...]

    def setup(self) -> None:
        from flax.nnx import bridge

        # `metadata_fn=None`: variables are plain arrays.
        self.network = bridge.ToLinen(lambda rngs: self.factory(rngs), metadata_fn=None)

    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Logits `[batch, classes]` of images `[batch, h, w, c]`."""
        return self._run("__call__", train, images)

    def maps(self, images: jax.Array, train: bool = False) -> jax.Array:
        """See `models.protocol`, as the other methods."""
        return self._run("maps", train, images)

    def features(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self._run("features", train, images)

    def classify(self, maps: jax.Array) -> jax.Array:
        return self._run("classify", False, maps)

    def stages(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, ...]:
        return self._run("stages", train, images)

    def trunk(self, images: jax.Array, train: bool = False) -> jax.Array:
        return self._run("trunk", train, images)

    def last_stage(self, maps: jax.Array, train: bool = False) -> jax.Array:
        return self._run("last_stage", train, maps)

    def last_layer(self, variables: Any) -> tuple[jax.Array, jax.Array]:
        return cast(
            tuple[jax.Array, jax.Array],
            self.apply(variables, method=lambda m: m._run("last_layer", False)),
        )

    def prepare(self, images: jax.Array) -> Any:
        from flax import nnx

        return {"network": self.factory(nnx.Rngs(0)).prepare(images)}

    def _run(self, name: str, train: bool, *arguments: Any) -> Any:
        def run(module: Any, *given: Any) -> Any:
            (module.train if train else module.eval)()
            return getattr(module, name)(*given)

        return self.network(*arguments, nnx_method=run)
