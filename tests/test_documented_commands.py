"""The commands of the pages are run, small: two steps, a tiny network, tiny data.

Only sizes are changed, and data sets that would be downloaded. The commands of clusters
have stand-ins; `pip` is checked against what there is to install.
"""

import re
import runpy
import shutil
import sys
import types

import numpy as np
import prepared
import pytest
from commands import commands
from documentation import PAGES, ROOT, blocks
from PIL import Image
from reader import SMALL, TFDS, Contributor, Reader
from test_documentation import CONTRIBUTING
from test_launch_scripts import cluster
from tiny import TINY

__all__ = ["cluster"]
pytestmark = pytest.mark.slow

# A study of the checkout with one arm, setting and seed.
STUDY = """
import dataclasses
import pathlib

from studies.design import load_study


def get_study(arg=None):
    path = {path!r} + (f":{{arg}}" if arg else "")
    study = load_study(path)[1]
    arms = [arm for arm in study.arms if arm.name == study.baseline]
    return dataclasses.replace(
        study,
        arms=tuple(arms),
        settings=study.settings[:1],
        seeds=[0],
        controls=(),
        contrasts=(),
        trials={{}},
        tuning_seeds=(),
        fields={{**study.fields, "total_steps": 2, "model.name": {tiny!r}}},
    )
"""


def write_data(root):
    """80 images with the splits that configs ask for."""
    images = np.random.RandomState(0).randint(0, 256, (80, 8, 8, 3), dtype=np.uint8)
    names, labels = [f"class {i}" for i in range(10)], np.arange(80) % 10
    splits = dict.fromkeys(("train", "test", "validation"), (images, labels))
    prepared.write(root, TFDS, names, splits)


def write_images(root):
    """Images in three folders of classes, and two beside them."""
    draws = np.random.RandomState(1)
    for i in range(62):
        folder = root / "abc"[i % 3] if i < 60 else root
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draws.randint(0, 256, (9, 10, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


@pytest.fixture(scope="module")
def launch(tmp_path_factory):
    """As `command`, with a data set of TFDS."""
    data = tmp_path_factory.mktemp("tfds")
    write_data(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(data))
        with commands() as run:
            yield run


@pytest.fixture(scope="module")
def extras():
    """Extra -> requirements, of `setup.py`."""
    with pytest.MonkeyPatch.context() as patch:
        given = {}
        # Python 3.12 has no setuptools where nothing has asked for it.
        tools = types.ModuleType("setuptools")
        tools.setup = lambda **options: given.update(options)
        tools.find_packages = lambda **options: []
        patch.setitem(sys.modules, "setuptools", tools)
        runpy.run_path(str(ROOT / "setup.py"))
    return given["extras_require"]


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != CONTRIBUTING], ids=lambda page: page.stem
)
def test_commands(page, launch, cluster, extras, tmp_path, monkeypatch):
    folder = tmp_path / "page"
    for name in ("configs", "examples"):
        shutil.copytree(ROOT / name, folder / name)
    (folder / "launch").mkdir()
    for path in (ROOT / "launch").glob("*.py"):
        (folder / "launch" / path.name).touch()
    for path in (folder / "configs" / "studies").glob("[a-z]*.py"):
        whole = str(ROOT / "configs" / "studies" / path.name)
        path.write_text(STUDY.format(path=whole, tiny=TINY))
    write_images(folder / "images")
    (folder / "names").write_text("\n".join(f"class {i}" for i in range(10)))
    monkeypatch.chdir(folder)
    if "RUN" in page.read_text():
        name = f"--config={ROOT / 'configs' / 'digits.py'}"
        small = [*SMALL, f"--config.model.name={TINY}", "--workdir=run"]
        done = launch("main", name, *small, folder=folder)
        assert done.returncode == 0, done.stderr
        done = launch(
            "export", "--workdir=run", "--output=params.msgpack", folder=folder
        )
        assert done.returncode == 0, done.stderr
        (folder / "params.msgpack").rename(folder / "params")  # without its sidecar
    reader = Reader(folder, launch, cluster, extras)
    reader.read(page)


def test_what_contributors_are_told(launch, cluster, extras, tmp_path):
    folder = tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("configs", "examples", "introspect_jax", "launch", "studies", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "requirements.txt", "setup.py"):
        shutil.copy(ROOT / name, folder)
    reader = Contributor(folder, launch, cluster, extras)
    reader.read(CONTRIBUTING)
    reader.run_ruff("ruff", ["check"], {})
    reader.run_ruff("ruff", ["format", "--check"], {})
    Reader.run_mypy(reader, "mypy", [], {})
    added = [b.file for b in blocks(CONTRIBUTING) if b.file]
    assert any(re.match("introspect_jax/", name) for name in added)
