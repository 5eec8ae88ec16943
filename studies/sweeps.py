"""A small algebra of config fields: products, zips and chains of named points."""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import Any

Fields = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Point:
    """Config fields with a name.

    Attributes:
      name: Name in tables.
      fields: Dotted config field -> value.
    """

    name: str
    fields: Fields


Sweep = tuple[Point, ...]


def point(name: str, fields: Fields | None = None) -> Sweep:
    """A sweep of one point.

    >>> point("standard", {"method.name": "standard"})[0].name
    'standard'
    """
    return (Point(name, dict(fields or {})),)


def sweep(field: str, values: Iterable[Any]) -> Sweep:
    """A sweep of several values of one field.

    >>> [p.name for p in sweep("optimizer.learning_rate", [0.1, 0.2])]
    ['learning_rate=0.1', 'learning_rate=0.2']
    """
    short = field.rpartition(".")[2]
    return tuple(Point(f"{short}={value}", {field: value}) for value in values)


def product(*sweeps: Sweep) -> Sweep:
    """Every combination of points; the last sweep varies fastest.

    Raises:
      ValueError: Two sweeps set the same field.
    """
    return tuple(_join(points) for points in itertools.product(*sweeps))


def zipped(*sweeps: Sweep) -> Sweep:
    """The first points together, then the second, and so on.

    Raises:
      ValueError: Sweeps differ in length, or two of them set the same field.
    """
    if len({len(points) for points in sweeps}) > 1:
        raise ValueError(f"zipped sweeps have lengths {[len(s) for s in sweeps]}")
    return tuple(_join(points) for points in zip(*sweeps, strict=True))


def chain(*sweeps: Sweep) -> Sweep:
    """One sweep after the other.

    Raises:
      ValueError: Two points have the same name.
    """
    points = tuple(itertools.chain(*sweeps))
    names = [p.name for p in points]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"points need names of their own; twice: {sorted(twice)}")
    return points


def _join(points: Iterable[Point]) -> Point:
    fields: dict[str, Any] = {}
    names = []
    for joined in points:
        both = fields.keys() & joined.fields.keys()
        if both:
            raise ValueError(f"{sorted(both)} set by two of the sweeps joined")
        fields |= joined.fields
        names.append(joined.name)
    return Point(", ".join(name for name in names if name), fields)
