"""Files of parameters: safetensors, msgpack (Flax) and folders of Orbax.

Arrays have flat names, the path of a variable joined by dots: `params.stem.kernel`,
`batch_stats.stem_norm.mean`. Pickle is never read, since it can run code.
"""

import os
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from etils import epath

from introspect_jax.errors import UserError, nearest
from introspect_jax.models import init_variables
from introspect_jax.paths import absolute
from introspect_jax.train.files import write_bytes

Arrays = dict[str, np.ndarray]
# Suffix -> how arrays are written to a file of that name.
WRITERS: dict[str, Callable[[Arrays], bytes]] = {
    ".safetensors": safetensors.numpy.save,
    ".msgpack": flax.serialization.msgpack_serialize,
}
# Those of safetensors; its own reader for NumPy has no bfloat16.
_DTYPES = {
    "BF16": jnp.bfloat16,
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
# How files begin that PyTorch (a zip archive) and pickle write.
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What the files of a checkpoint of Orbax are found by.
_ORBAX = "_METADATA"
# Arrays of other shapes that a message lists.
_SHOWN = 3


def flatten(tree: Any, path: tuple[str, ...] = ()) -> Arrays:
    """Maps the flat names of a tree of dicts and lists to its arrays.

    >>> flatten({"params": {"dense": {"bias": np.zeros(2)}}})
    {'params.dense.bias': array([0., 0.])}
    """
    if isinstance(tree, Mapping):
        entries = [*tree.items()]
    elif isinstance(tree, list | tuple):
        entries = [*enumerate(tree)]
    else:
        return {".".join(path): np.asarray(tree)}
    return {
        name: array
        for key, part in entries
        for name, array in flatten(part, (*path, str(key))).items()
    }


def write(path: epath.Path, variables: Any) -> None:
    """Writes variables with flat names.

    Args:
      path: Its suffix is that of the format, one of `WRITERS`.
      variables: `{"params": ..., "batch_stats": ...}`.

    Raises:
      UserError: Another suffix, or the file cannot be written.
    """
    if path.suffix not in WRITERS:
        raise UserError(
            f"{str(path)!r} must end in {' or '.join(WRITERS)}, which says the format"
        )
    arrays = {
        name: np.ascontiguousarray(array)
        for name, array in flatten(jax.device_get(variables)).items()
    }
    write_bytes(path, WRITERS[path.suffix](arrays))


def read(path: str | os.PathLike) -> Arrays:
    """Reads the arrays of a file or folder by their flat names; nested msgpack too.

    The format is recognised by the content.

    Args:
      path: A safetensors or msgpack file, or the folder of a checkpoint of Orbax
        (`StandardSave` of the variables).

    Raises:
      UserError: It does not exist, is of none of these formats, or is damaged.
    """
    found = absolute(path)
    if not found.exists():
        raise UserError(f"no file of parameters {str(path)!r}")
    if found.is_dir():
        return _read_orbax(found)
    try:
        content = found.read_bytes()
    except OSError as error:
        raise _unreadable(found, error) from error
    if content.startswith(_PICKLES):
        raise UserError(
            f"{str(found)!r} is a file of pickle or PyTorch, which can run code when "
            "it is read; convert it to safetensors first, as "
            "examples/pretrained/convert.py does"
        )
    # A header of JSON, after its length of 8 bytes.
    if content[8:9] == b"{":
        try:
            return {
                name: np.frombuffer(part["data"], _DTYPES[part["dtype"]]).reshape(
                    part["shape"]
                )
                for name, part in safetensors.deserialize(content)
            }
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise _unreadable(found, error) from error
    try:
        tree = flax.serialization.msgpack_restore(content)
    except Exception as error:  # msgpack and NumPy have many
        raise UserError(
            f"{str(found)!r} cannot be read ({_reason(error)}); parameters are a "
            "safetensors file, a msgpack file of Flax or a folder of Orbax"
        ) from error
    return _only_arrays(found, tree)


def _read_orbax(folder: epath.Path) -> Arrays:
    if (folder / "config.json").exists() and (folder / "data.json").exists():
        raise UserError(
            f"{str(folder)!r} is the work folder of a run: give it as --workdir"
        )
    # A manager of checkpoints has folders of steps, each with its items.
    inner = [p for p in folder.iterdir() if (p / _ORBAX).exists()]
    if not (folder / _ORBAX).exists():
        if len(inner) != 1:
            raise UserError(
                f"{str(folder)!r} is not a checkpoint of Orbax (it has no {_ORBAX}, "
                f"and {len(inner)} folders with one); give the folder of one step"
            )
        folder = inner[0]
    try:
        with ocp.PyTreeCheckpointer() as checkpointer, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of shardings, which arrays do not have
            tree = checkpointer.metadata(folder).item_metadata.tree
            kinds = jax.tree.map(
                lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree
            )
            restored = checkpointer.restore(folder, restore_args=kinds)
    except Exception as error:  # Orbax and TensorStore have many
        raise _unreadable(folder, error) from error
    return _only_arrays(folder, restored)


def _only_arrays(path: epath.Path, tree: Any) -> Arrays:
    if not isinstance(tree, Mapping):
        raise UserError(
            f"{str(path)!r} holds {type(tree).__name__}, not a tree of arrays by name"
        )
    arrays = flatten(tree)
    for name, array in arrays.items():
        if array.dtype == object or array.dtype.kind in "SU":
            raise UserError(f"{str(path)!r}: {name!r} is not an array of numbers")
    return arrays


def _unreadable(path: epath.Path, error: Exception) -> UserError:
    return UserError(
        f"{str(path)!r} cannot be read ({_reason(error)}); is it whole? Copy it again"
    )


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


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
    for name in wanted:
        if not np.isfinite(given[name].astype(np.float64)).all():
            raise UserError(
                f"the parameters in {source} are not finite: {name!r} has NaN or "
                "infinity; take a checkpoint from before they became so"
            )
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(given[_name(path)], leaf.dtype), tree
    )


def _abstract(model: nn.Module, image_shape: tuple[int, int, int]) -> Any:
    """Shapes and dtypes of the variables; nothing is computed."""

    def init(key: jax.Array) -> Any:
        params, state = init_variables(model, image_shape, key)
        return {"params": params, **state}

    return jax.eval_shape(init, jax.random.key(0))


def _name(path: tuple[Any, ...]) -> str:
    """The flat name of a path of `jax.tree_util`."""
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path)


def _full_names(arrays: Arrays, wanted: Mapping[str, Any]) -> Arrays:
    """Completes names without their collection, and those of an NNX module, which is
    the part `network` of its interface."""
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
    sizes = {
        sizes
        for theirs, ours in pairs
        for sizes in zip(theirs, ours, strict=True)
        if sizes[0] != sizes[1]
    }
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
        found.append(f"the network has no {unknown[0]!r}{_others(unknown)}")
    return found


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if names[1:] else ""


def _floating(dtype: Any) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))
