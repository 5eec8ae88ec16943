"""The tests of the objectives run without implicit promotion."""

import jax
import pytest


@pytest.fixture(autouse=True)
def strict_promotion():
    with (
        jax.numpy_rank_promotion("raise"),
        jax.numpy_dtype_promotion("strict"),
    ):
        yield
