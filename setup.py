"""Packaging; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
REQUIREMENTS = [
    line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
]
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "introspect_jax" / "__init__.py").read_text()
)[1]

setuptools.setup(
    name="introspect-jax",
    version=VERSION,
    description="Introspective learning: self-distillation from online explanations",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["introspect_jax", "introspect_jax.*"]),
    python_requires=">=3.11",
    install_requires=REQUIREMENTS,
    extras_require={
        # Only to prepare data sets that are not prepared yet; never at run time.
        "prepare": ["tensorflow"],
        "gcs": ["gcsfs"],  # gs:// folders
        # Frameworks that only examples/ use.
        "examples": ["dm-haiku", "equinox"],
        "test": ["mypy>=1.11", "pytest>=8", "ruff>=0.6"],
    },
)
