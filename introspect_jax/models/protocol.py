"""The interface of a network.

A network is called as `(images, train)` and returns logits `[batch, classes]`. The
following methods are optional; code that needs one that is missing raises an error:

`maps(images, train)`: the last feature maps `[batch, h, w, d]`, and `classify(maps)`,
    their logits, in training as in evaluation (for Grad-CAM, and for methods that
    compare maps);
`features(images, train)`: the inputs `[batch, d]` of the last linear layer, and
    `last_layer(variables)`, its kernel `[d, classes]` and bias `[classes]` (for norms
    by the last layer; weight rows need the kernel only);
`stages(images, train)`: a tuple of the maps `[batch, h, w, d]` after each of at least
    two stages, the last of which are those of `maps`; `trunk(images, train)`, the maps
    before the last stage, and `last_stage(maps, train)`, the network's logits of them
    (for methods that compare maps or add branches);
`prepare(images)`: values of the variables in the collection `constants`, computed once
    from training images (for example a whitening first layer), never trained or
    averaged.

`models.classifier.Classifier` has all of them except `prepare`; those of stages if its
backbone has stages.
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
# Collection of the variables that `prepare` returns.
CONSTANTS = "constants"
# The methods of a network in stages.
STAGED = ("stages", "trunk", "last_stage")
_EXPLAINING = "this explanation or similarity"


def make_logits_fn(model: nn.Module, variables: Any) -> Function:
    """Returns the pure function `images [batch, h, w, c] -> logits [batch, classes]`.

    It uses the running statistics and no randomness, so the logits of an example do not
    depend on its batch, as `explain_fn` and `introspect` require.

    Args:
      model: Network whose call takes `train`.
      variables: `{"params": ..., "batch_stats": ...}`.
    """

    def logits_fn(images: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, images, train=False))

    return logits_fn


def make_maps_fn(model: nn.Module, variables: Any) -> Function:
    """Returns `images [batch, h, w, c] -> last feature maps [batch, h', w', d]`.

    Raises:
      UserError: The network has no `maps`.
    """
    return _part(model, variables, "maps", train=False)


def make_classify_fn(model: nn.Module, variables: Any) -> Function:
    """Returns `last feature maps -> logits [batch, classes]`.

    Raises:
      UserError: The network has no `classify`.
    """
    return _part(model, variables, "classify")


def make_features_fn(model: nn.Module, variables: Any) -> Function:
    """Returns `images [batch, h, w, c] -> inputs [batch, d]` of the last layer.

    Raises:
      UserError: The network has no `features`.
    """
    return _part(model, variables, "features", train=False)


def last_layer(model: nn.Module, variables: Any) -> tuple[jax.Array, jax.Array]:
    """Kernel `[d, classes]` and bias `[classes]` of the last linear layer.

    Raises:
      UserError: The network has no `last_layer`.
    """
    check_offers(model, "last_layer", _EXPLAINING)
    kernel, bias = cast(Any, model).last_layer(variables)
    return kernel, bias


def offers(model: nn.Module, part: str) -> bool:
    """Whether the network has this optional method."""
    parts = getattr(model, "parts", None)  # those of an NNX module
    if isinstance(parts, tuple):
        return part in parts
    if part in getattr(model, "lacks", ()):  # a classifier without stages
        return False
    return callable(getattr(model, part, None))


def check_offers(model: nn.Module, part: str, for_what: str) -> None:
    """Raises a UserError if the network lacks this optional method.

    Args:
      model: Network.
      part: Name of the method.
      for_what: What needs it, for the message.
    """
    if not offers(model, part):
        name = getattr(model, "title", type(model).__name__)
        raise UserError(
            f"the network {name} has no {part!r}, which {for_what} needs: give it that "
            "method (introspect_jax/models/protocol.py), or choose another network"
        )


def stage_shapes(
    model: nn.Module, image_shape: tuple[int, ...], for_what: str
) -> list[tuple[int, int, int]]:
    """Shapes `(h, w, d)` of the maps after each stage. Only shapes are computed.

    Args:
      model: Network.
      image_shape: Shape `(h, w, c)` of its inputs.
      for_what: What needs the stages, for the message.

    Raises:
      UserError: The network is not in stages.
    """
    check_offers(model, "stages", for_what)

    def stages(key: jax.Array) -> Any:
        params, state = init_variables(model, image_shape, key)
        images = jnp.zeros((1, *image_shape), jnp.float32)
        variables = {"params": params, **state}
        return model.apply(variables, images, train=False, method="stages")

    shapes = [maps.shape for maps in jax.eval_shape(stages, jax.random.key(0))]
    if len(shapes) < 2 or any(len(shape) != 4 for shape in shapes):
        raise UserError(
            f"'stages' of the network must return the maps [batch, h, w, d] after each "
            f"of at least two stages, which {for_what} needs; it returned the shapes "
            f"{[list(shape) for shape in shapes]}"
        )
    return [shape[1:] for shape in shapes]


def map_shape(model: nn.Module, image_shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape `(h, w, d)` of the last feature maps. Only shapes are computed.

    Args:
      model: Network with `maps`.
      image_shape: Shape `(h, w, c)` of its inputs.
    """

    def maps(key: jax.Array) -> Any:
        params, state = init_variables(model, image_shape, key)
        images = jnp.zeros((1, *image_shape), jnp.float32)
        return make_maps_fn(model, {"params": params, **state})(images)

    shape: tuple[int, ...] = jax.eval_shape(maps, jax.random.key(0)).shape[1:]
    return shape


def init_variables(
    model: nn.Module,
    image_shape: tuple[int, ...],
    key: jax.Array,
    method: str | None = None,
) -> tuple[PyTree, PyTree]:
    """Returns new parameters and the other variables (batch statistics).

    Args:
      model: Network, or another module that is called with `train`.
      image_shape: Shape `(h, w, c)` of its inputs.
      key: Random key.
      method: An optional method, if only its variables are wanted; its input has the
        shape `image_shape`.
    """
    images = jnp.zeros((1, *image_shape), jnp.float32)
    rngs = rng_streams(key) | {"params": key}
    variables = dict(cast(Any, model.init(rngs, images, train=True, method=method)))
    return variables.pop("params"), variables


def rng_streams(key: jax.Array) -> dict[str, jax.Array]:
    """Returns the random streams of a forward pass in training, for `apply`.

    For a stream that does not exist, linen uses `params` and NNX uses `default`.
    """
    return {
        name: jax.random.fold_in(key, zlib.crc32(name.encode()))
        for name in ("params", "dropout", "default")
    }


def is_constant(path: tuple[Any, ...]) -> bool:
    """Whether a path of `jax.tree_util` belongs to the collection `constants`."""
    return any(getattr(key, "key", None) == CONSTANTS for key in path)


def with_constants(tree: PyTree, constants: PyTree) -> PyTree:
    """Replaces every collection `constants` in a tree.

    Args:
      tree: Variables of a network, or a tree that contains them.
      constants: Result of the network's `prepare`.

    Raises:
      UserError: Names or shapes differ from those of the network's variables.
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
    check_offers(model, name, _EXPLAINING)

    def function(x: jax.Array) -> jax.Array:
        return cast(jax.Array, model.apply(variables, x, method=name, **arguments))

    return function
