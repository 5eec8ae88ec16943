"""The training loops of `examples/`: short, and they learn."""

import importlib.util

import pytest
from conftest import ROOT

EXAMPLES = ROOT / "examples"
# The package that the example needs beyond this project's own requirements.
PACKAGES = {
    "plain_jax": None,
    "flax_linen": None,
    "flax_nnx": None,
    "equinox_loop": "equinox",
    "haiku_loop": "haiku",
}


def _load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(PACKAGES)


@pytest.mark.parametrize("name", PACKAGES)
def test_an_example_is_short(name):
    assert len((EXAMPLES / f"{name}.py").read_text().splitlines()) < 80


@pytest.mark.parametrize(
    "name",
    [
        name if name == "plain_jax" else pytest.param(name, marks=pytest.mark.slow)
        for name in PACKAGES
    ],
)
def test_an_example_learns(name):
    if PACKAGES[name]:
        pytest.importorskip(PACKAGES[name])
    assert _load(name).main() >= 0.95
