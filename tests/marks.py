"""Marks of tests."""

from collections.abc import Collection, Iterable

import pytest


def slow_but(quick: Collection, values: Iterable) -> list:
    """Parameters of a test, which is slow but for these; a tuple is several of them."""

    def param(value):
        several = value if isinstance(value, tuple) else (value,)
        return pytest.param(*several, marks=() if value in quick else pytest.mark.slow)

    return [param(value) for value in values]
