"""Studies: many runs that answer one question together.

A study file defines `get_study(arg=None) -> Study` from these words.
"""

from introspect_jax.study.design import Study
from introspect_jax.study.sweeps import Point, chain, point, product, sweep, zipped

__all__ = ["Point", "Study", "chain", "point", "product", "sweep", "zipped"]
