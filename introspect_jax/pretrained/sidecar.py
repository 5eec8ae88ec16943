"""What a file of parameters does not say of its network: a JSON file beside it.

`net.safetensors.json` of `net.safetensors`, as `launch/export.py` writes it:

| key | value |
| --- | --- |
| `network` | `{"name": ..., "options": {...}}`, arguments of `models.build` |
| `classes` | the names of the classes |
| `image_shape` | `[h, w, c]` of images as read |
| `dtype` | of images as read, `"uint8"` (default) or `"float32"` |
| `preprocessing` | see below |
| `explain` | fields of `binding.default_config` for the pictures |
| `sha256` | hex digest of the file of parameters; not of a folder |

`preprocessing` has `mean` and `std` of pixels in [0, 1] (of float images in their own
unit), for all channels or each, by default 0 and 1; `resize`, a name of
`data.images.RESIZE`; and `size`, `[h, w]` of the centre that the network sees, by
default all of the image. Other keys are for readers.
"""

import hashlib
import math
from collections.abc import Callable
from typing import Any

from etils import epath

from introspect_jax.data.images import RESIZE
from introspect_jax.errors import UserError
from introspect_jax.train.files import read_json, write_json

_DTYPES = ("uint8", "float32")
_LARGEST = 2**16  # pixels of a side


def path_of(params: epath.Path) -> epath.Path:
    """The sidecar of a file of parameters: its name with `.json` behind it."""
    return params.parent / f"{params.name}.json"


def write(params: epath.Path, content: dict[str, Any]) -> epath.Path:
    """Writes the sidecar of a file of parameters, with its digest; returns its path."""
    path = path_of(params)
    write_json(path, content | {"sha256": _sha256(params)})
    return path


def read(params: epath.Path) -> dict[str, Any]:
    """Reads the sidecar of a file of parameters; empty if there is none.

    Raises:
      UserError: It is damaged, or of other parameters.
    """
    path = path_of(params)
    if not path.exists():
        return {}
    content = read_json(path)
    for name, (fits, what) in _KINDS.items():
        if name in content and not fits(content[name]):
            raise UserError(
                f"{str(path)!r}: {name!r} must be {what}, got {content[name]!r:.80}"
            )
    digest = content.get("sha256")
    if digest is not None and params.is_file() and digest != _sha256(params):
        raise UserError(
            f"{str(params)!r} does not have the SHA-256 in {str(path)!r}: one of them "
            "was changed; write both again (launch/export.py), or remove the JSON file "
            "and give --model and --labels"
        )
    return content


def _sha256(path: epath.Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _network(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and isinstance(value.get("options", {}), dict)
    )


def _names(value: Any) -> bool:
    strings = isinstance(value, list) and all(isinstance(name, str) for name in value)
    return strings and len(value) >= 2


def _sizes(count: int) -> Callable[[Any], bool]:
    return lambda value: (
        isinstance(value, list)
        and len(value) == count
        and all(type(n) is int and 0 < n <= _LARGEST for n in value)
    )


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 0
        and all(type(n) in (int, float) and math.isfinite(n) for n in value)
    )


def _preprocessing(value: Any) -> bool:
    kinds = {
        "mean": _numbers,
        "std": _numbers,
        "resize": lambda name: isinstance(name, str) and name in RESIZE,
        "size": _sizes(2),
    }
    return isinstance(value, dict) and all(
        fits(value[name]) for name, fits in kinds.items() if name in value
    )


# Key -> whether a value is of its kind, and what it must be.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "network": (_network, 'an object with "name" and "options"'),
    "classes": (_names, "a list of at least 2 names"),
    "image_shape": (_sizes(3), "[h, w, c]"),
    "dtype": (lambda value: value in _DTYPES, " or ".join(_DTYPES)),
    "preprocessing": (
        _preprocessing,
        'an object with numbers "mean" and "std", "resize" (one of '
        f'{", ".join(RESIZE)}) and "size" [h, w]',
    ),
    "explain": (lambda value: isinstance(value, dict), "an object"),
    "sha256": (lambda value: isinstance(value, str), "a string"),
}
