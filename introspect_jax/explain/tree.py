"""Frozen dataclasses as pytrees."""

import dataclasses
import functools
from collections.abc import Hashable
from typing import Any

import jax
import numpy as np

# The names of the array fields, and the names and values of all others.
_Static = tuple[tuple[str, ...], tuple[tuple[str, Hashable], ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class TreeNode:
    """Base class of frozen dataclasses that pass through `jit`, `vmap` and `grad`.

    Arrays in the fields are leaves of the pytree; all other values (numbers, strings,
    functions) are static. Decorate a subclass with
    `@dataclasses.dataclass(frozen=True, eq=False)`. `eq=False` because comparing array
    fields does not give a single bool.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys(
            cls, _flatten_with_keys, functools.partial(_unflatten, cls), _flatten
        )


def _holds_arrays(value: Any) -> bool:
    return isinstance(value, TreeNode) or any(
        isinstance(leaf, jax.Array | np.ndarray) for leaf in jax.tree.leaves(value)
    )


def _flatten(node: TreeNode) -> tuple[tuple[Any, ...], _Static]:
    names = [field.name for field in dataclasses.fields(node)]
    # A transformation may have replaced the arrays by other objects, so the names of
    # the array fields are stored rather than recomputed.
    dynamic = node.__dict__.get("_dynamic")
    if dynamic is None:
        dynamic = tuple(name for name in names if _holds_arrays(getattr(node, name)))
    static = tuple((n, getattr(node, n)) for n in names if n not in dynamic)
    return tuple(getattr(node, name) for name in dynamic), (dynamic, static)


def _flatten_with_keys(node: TreeNode) -> tuple[Any, _Static]:
    children, (dynamic, static) = _flatten(node)
    keys = (jax.tree_util.GetAttrKey(name) for name in dynamic)
    return tuple(zip(keys, children, strict=True)), (dynamic, static)


def _unflatten(cls: type[TreeNode], static: _Static, children: Any) -> TreeNode:
    # `__init__` is skipped: its checks expect arrays, not placeholders.
    node = object.__new__(cls)
    dynamic, rest = static
    values = dict(rest) | dict(zip(dynamic, children, strict=True))
    for name, value in (values | {"_dynamic": dynamic}).items():
        object.__setattr__(node, name, value)
    return node
