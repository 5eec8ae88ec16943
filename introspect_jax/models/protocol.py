"""What the rest of the project asks of a network.

All it must have is its call, `(images, train) -> logits [batch, classes]`. Further
methods are optional, and whatever needs one that is missing says so:

`maps(images, train)`: the last feature maps `[batch, h, w, d]`, and `classify(maps)`,
    their logits (Grad-CAM);
`features(images, train)`: what the last linear layer gets, `[batch, d]`, and
    `last_layer(variables)`, its kernel `[d, classes]` and bias `[classes]` (norms by
    the last layer; the kernel alone for weight rows);
`prepare(images)`: values of the variables in the collection `constants`, made once from
    training images (a whitening first layer, say), never trained or averaged.

`models.classifier.Classifier` has all of them but the last.
"""

import zlib
from collections.abc import Callable
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from introspect_jax.errors import UserError

Function = Callable[[jax.Array], jax.Array]
PyTree = Any
# The collection of variables that `prepare` gives.
CONSTANTS = "constants"


def make_logits_fn(model: nn.Module, variables: Any) -> Function:
    """The pure function `images [batch, h, w, c] -> logits [batch, classes]`.

    It runs with the running statistics and without randomness and changes nothing, so
    an example's logits do not depend on its batch: what `explain_fn` and `introspect`
    need.

    Args:
      model: Network whose call takes `train`.
      variables: `{"params": ..., "batch_stats": ...}`.
    """

    def logits_fn(images: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, images, train=False))

    return logits_fn


def make_maps_fn(model: nn.Module, variables: Any) -> Function:
    """`images [batch, h, w, c] -> last feature maps [batch, h', w', d]`.

    Raises:
      UserError: The network has no `maps`.
    """
    return _part(model, variables, "maps", train=False)


def make_classify_fn(model: nn.Module, variables: Any) -> Function:
    """`last feature maps -> logits [batch, classes]`, the rest of the network.

    Raises:
      UserError: The network has no `classify`.
    """
    return _part(model, variables, "classify")


def make_features_fn(model: nn.Module, variables: Any) -> Function:
    """`images [batch, h, w, c] -> features [batch, d]` before the last linear layer.

    Raises:
      UserError: The network has no `features`.
    """
    return _part(model, variables, "features", train=False)


def last_layer(model: nn.Module, variables: Any) -> tuple[jax.Array, jax.Array]:
    """Kernel `[d, classes]` and bias `[classes]` of the last linear layer.

    Raises:
      UserError: The network has no `last_layer`.
    """
    check_offers(model, "last_layer")
    kernel, bias = cast(Any, model).last_layer(variables)
    return kernel, bias


def offers(model: nn.Module, part: str) -> bool:
    """Whether the network has this optional method."""
    parts = getattr(model, "parts", None)  # those of an NNX module
    if isinstance(parts, tuple):
        return part in parts
    return callable(getattr(model, part, None))


def check_offers(model: nn.Module, part: str) -> None:
    """Raises a UserError for a network without this optional method."""
    if not offers(model, part):
        name = getattr(model, "title", type(model).__name__)
        raise UserError(
            f"the network {name} has no {part!r}, which this explanation or similarity "
            "needs: give it that method (introspect_jax/models/protocol.py), or choose "
            "another explanation"
        )


def init_variables(
    model: nn.Module, image_shape: tuple[int, ...], key: jax.Array
) -> tuple[PyTree, PyTree]:
    """Parameters of a new network, and its other variables (batch statistics)."""
    images = jnp.zeros((1, *image_shape), jnp.float32)
    rngs = rng_streams(key) | {"params": key}
    variables = dict(cast(Any, model.init(rngs, images, train=True)))
    return variables.pop("params"), variables


def rng_streams(key: jax.Array) -> dict[str, jax.Array]:
    """The random streams of a pass in training, for `apply`: a function of the key.

    Linen takes `params` for any stream that is not there, NNX `default`.
    """
    return {
        name: jax.random.fold_in(key, zlib.crc32(name.encode()))
        for name in ("params", "dropout", "default")
    }


def is_constant(path: tuple[Any, ...]) -> bool:
    """Whether a path of `jax.tree_util` leads to one of the network's constants."""
    return any(getattr(key, "key", None) == CONSTANTS for key in path)


def with_constants(tree: PyTree, constants: PyTree) -> PyTree:
    """The tree with every collection `constants` in it replaced.

    Args:
      tree: Variables of a network, or what holds them.
      constants: Of the network's `prepare`, for the collection.

    Raises:
      UserError: The network has no such variables, or of other names or shapes.
    """
    given = dict(jax.tree_util.tree_leaves_with_path(constants))
    seen = set()

    def new(path: tuple[Any, ...], leaf: Any) -> Any:
        names = [getattr(key, "key", None) for key in path]
        if CONSTANTS not in names:
            return leaf
        within = path[names.index(CONSTANTS) + 1 :]
        seen.add(within)
        value = given.get(within)
        if value is None or jnp.shape(value) != leaf.shape:
            got = "nothing" if value is None else f"shape {jnp.shape(value)}"
            raise UserError(
                f"'prepare' of the network gave {got} for the constant "
                f"{jax.tree_util.keystr(within)}, which has the shape {leaf.shape}"
            )
        # Copied: a tree that holds a buffer twice cannot be donated.
        return jnp.array(value, leaf.dtype)

    tree = jax.tree_util.tree_map_with_path(new, tree)
    if unused := given.keys() - seen:
        first = jax.tree_util.keystr(min(unused, key=str))
        raise UserError(
            f"'prepare' of the network gave {first}, and it has no such variable in "
            "the collection 'constants': make one in its call, as in "
            "self.variable('constants', 'kernel', jnp.zeros, shape)"
        )
    return tree


def _part(model: nn.Module, variables: Any, name: str, **arguments: Any) -> Function:
    check_offers(model, name)

    def function(x: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, x, method=name, **arguments))

    return function
