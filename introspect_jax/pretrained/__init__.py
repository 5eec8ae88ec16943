"""Networks as files: those that were trained elsewhere, and exported runs.

`load` returns a `trained.Trained` from a file of parameters, `export` writes the
network of a run to one.
"""

from introspect_jax.pretrained.export import export
from introspect_jax.pretrained.load import load

__all__ = ["export", "load"]
