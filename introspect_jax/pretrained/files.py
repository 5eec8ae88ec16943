"""Files of parameters: safetensors, msgpack (Flax) and folders of Orbax.

Arrays have flat names, the path of a variable joined by dots: `params.stem.kernel`,
`batch_stats.stem_norm.mean`. Pickle is never read, since it can run code.
"""

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from etils import epath

from introspect_jax.errors import UserError
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
    "BOOL": np.dtype(bool),
    "BF16": np.dtype(jnp.bfloat16),
    **{f"F{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
}
# How files begin that are zip archives, and that pickle writes.
_ZIP = b"PK\x03\x04"
_PICKLES = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
# What the files of a checkpoint of Orbax are found by.
_ORBAX = "_METADATA"


def flatten(tree: Any, path: tuple[str, ...] = ()) -> Arrays:
    """Maps the flat names of a tree of dicts, lists and None to its arrays.

    >>> flatten({"params": {"dense": {"bias": np.zeros(2)}}})
    {'params.dense.bias': array([0., 0.])}
    """
    if tree is None:
        return {}
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


def check_name(path: epath.Path) -> None:
    """Raises a UserError if the suffix is none of `WRITERS`."""
    if path.suffix not in WRITERS:
        raise UserError(
            f"{str(path)!r} must end in {' or '.join(WRITERS)}, which says the format"
        )


def write(path: epath.Path, variables: Any) -> None:
    """Writes variables with flat names.

    Args:
      path: Its suffix is that of the format, one of `WRITERS`.
      variables: `{"params": ..., "batch_stats": ...}`.

    Raises:
      UserError: Another suffix, or the file cannot be written.
    """
    check_name(path)
    arrays = {
        name: np.asarray(array, order="C")
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
        raise UserError(f"{str(found)!r} cannot be read: {error.strerror}") from error
    if content.startswith((_ZIP, *_PICKLES)):
        kind = "a zip archive (PyTorch or NumPy)"
        kind = kind if content.startswith(_ZIP) else "a pickle, which can run code"
        raise UserError(
            f"{str(found)!r} is {kind}, and is not read; convert it to safetensors "
            "first, as examples/pretrained/convert.py does"
        )
    if content[8:9] == b"{":  # a header of JSON, after its length of 8 bytes
        return _read_safetensors(found, content)
    try:
        tree = flax.serialization.msgpack_restore(content)
    except Exception as error:  # msgpack and NumPy have many
        raise UserError(
            f"{str(found)!r} cannot be read ({_reason(error)}); parameters are a "
            "safetensors file, a msgpack file of Flax or a folder of Orbax"
        ) from error
    return _only_arrays(found, tree)


def _read_safetensors(path: epath.Path, content: bytes) -> Arrays:
    arrays = {}
    try:
        for name, part in safetensors.deserialize(content):
            if part["dtype"] not in _DTYPES:
                raise UserError(
                    f"{str(path)!r}: {name!r} has the dtype {part['dtype']}, which is "
                    "not read; convert it to float32"
                )
            array = np.frombuffer(part["data"], _DTYPES[part["dtype"]])
            arrays[name] = array.reshape(part["shape"])
    except safetensors.SafetensorError as error:
        raise _unreadable(path, error) from error
    return arrays


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
