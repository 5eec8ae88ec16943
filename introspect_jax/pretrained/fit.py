"""Fits arrays by name to the variables of a network."""

import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.errors import UserError, nearest
from introspect_jax.models import init_variables
from introspect_jax.pretrained.files import Arrays

# Arrays of other shapes that a message lists.
_SHOWN = 3
# Collections of a whole training state, of which only the parameters are wanted.
_TRAINING = ("opt_state", "step")


def fit(
    arrays: Arrays,
    model: nn.Module,
    image_shape: tuple[int, int, int],
    source: str,
    *,
    classes: tuple[int, str],
) -> Any:
    """Builds the variables of a network from arrays by their flat names.

    Names may lack the collection: `stem.kernel` for `params.stem.kernel`. Arrays of
    another floating-point type are converted to that of the network.

    Args:
      arrays: Of `read`.
      model: The network.
      image_shape: Shape `(h, w, c)` of its inputs.
      source: Where the arrays come from, for messages.
      classes: Number of classes that the network was built with, and where their names
        come from, for messages.

    Returns:
      `{"params": ..., "batch_stats": ...}`, arrays of JAX.

    Raises:
      UserError: Arrays are missing, superfluous, of other shapes or kinds, or not
        finite.
    """
    tree = _abstract(model, image_shape)
    wanted = {_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}
    given = _full_names(arrays, wanted)
    if differences := _differences(given, wanted):
        _check_count(given, wanted, source, *classes)
        raise UserError(
            f"the parameters in {source} do not fit the network: "
            f"{'; '.join(differences)}"
        )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _converted(_name(path), given[_name(path)], leaf, source),
        tree,
    )


def _converted(
    name: str, array: np.ndarray, leaf: jax.ShapeDtypeStruct, source: str
) -> jax.Array:
    """The array in the dtype of the network.

    Raises:
      UserError: It is not finite there, or holds integers that do not fit.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        new = array.astype(leaf.dtype)
    if not _floating(leaf.dtype):
        if not np.array_equal(new, array):
            raise UserError(
                f"the parameters in {source} do not fit the network: {name!r} has "
                f"{array.dtype} values that {leaf.dtype} cannot hold"
            )
    elif not np.isfinite(new.astype(np.float64)).all():
        raise UserError(
            f"the parameters in {source} are not finite: {name!r} has NaN or infinity "
            f"in {leaf.dtype}; take a checkpoint from before they became so"
        )
    return jnp.asarray(new)


def _abstract(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Shapes and dtypes of the variables; nothing is computed."""

    def init(key: jax.Array) -> Any:
        params, state = init_variables(model, image_shape, key)
        return {"params": params, **state}

    try:
        return jax.eval_shape(init, jax.random.key(0))
    except UserError:
        raise
    except Exception as error:  # of code from outside
        reason = (str(error).strip().splitlines() or [""])[0]
        raise UserError(
            f"the network cannot be called with images of {image_shape} "
            f"({type(error).__name__}: {reason:.200}); are --image_size and --channels "
            "those that it was trained with?"
        ) from error


def _name(path: tuple[Any, ...]) -> str:
    """The flat name of a path of `jax.tree_util`."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _full_names(arrays: Arrays, wanted: Mapping[str, Any]) -> Arrays:
    """Completes names without their collection, and those of an NNX module, which is
    the part `network` of its interface and whose state ends in `value` in Orbax."""
    if not any(name.endswith(".value") for name in wanted):
        arrays = {name.removesuffix(".value"): a for name, a in arrays.items()}
    for pattern in ("", r"^\w+\.", r"^\w+\.network\."):
        full = {re.sub(pattern, "", name): name for name in wanted}
        # Two collections may have variables of one name.
        if len(full) == len(wanted) and full.keys() & arrays.keys():
            return {full.get(name, name): array for name, array in arrays.items()}
    return arrays


def _check_count(
    given: Arrays, wanted: Mapping[str, Any], source: str, count: int, names: str
) -> None:
    """Raises a UserError if nothing but the number of classes differs."""
    if given.keys() != wanted.keys():
        return
    pairs = [(given[name].shape, leaf.shape) for name, leaf in wanted.items()]
    if any(len(theirs) != len(ours) for theirs, ours in pairs):
        return
    # The classes are the last axis of the kernel and of the bias.
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    sizes = {(theirs[-1], ours[-1]) for theirs, ours in differing}
    if any(theirs[:-1] != ours[:-1] for theirs, ours in differing):
        return
    if len(sizes) == 1 and (found := sizes.pop())[1] == count:
        raise UserError(
            f"{names} names {count} classes, and the parameters in {source} are of "
            f"{found[0]}; give the names of those that the network was trained on"
        )


def _differences(given: Arrays, wanted: Mapping[str, Any]) -> list[str]:
    """What does not fit: each array of another shape or kind, and how many are missing
    or not known to the network."""
    missing = sorted(wanted.keys() - given.keys())
    unknown = sorted(given.keys() - wanted.keys())
    found = []
    for name in sorted(wanted.keys() & given.keys()):
        array, leaf = given[name], wanted[name]
        if array.shape != leaf.shape:
            found.append(
                f"{name!r} has the shape {array.shape}, and {leaf.shape} in the network"
            )
        elif _floating(array.dtype) != _floating(leaf.dtype):
            found.append(f"{name!r} has {array.dtype}, and {leaf.dtype} in the network")
    if len(found) > _SHOWN:
        found[_SHOWN:] = [f"{len(found) - _SHOWN} more have other shapes"]
    if missing:
        close = nearest(missing[0], unknown)
        found.append(f"{missing[0]!r}{_others(missing)} missing{close}")
    if unknown:
        state = any(name.partition(".")[0] in _TRAINING for name in unknown)
        hint = " (a whole training state? save its params alone)" if state else ""
        found.append(f"the network has no {unknown[0]!r}{_others(unknown)}{hint}")
    return found


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if names[1:] else ""


def _floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))
