"""Studies: many runs that answer one question together.

A study file defines `get_study(arg=None) -> Study` from these words.
"""

from studies.design import Study
from studies.sweeps import Point, chain, point, product, sweep, zipped

__all__ = ["Point", "Study", "chain", "point", "product", "sweep", "zipped"]
