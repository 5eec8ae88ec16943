"""The commands of the pages are run, small: two steps, a tiny network, tiny data.

Only sizes are changed, and data sets that would be downloaded. The commands of clusters
have stand-ins; `pip` is checked against what there is to install.
"""

import importlib.metadata
import os
import pathlib
import re
import runpy
import shutil
import subprocess
import sys

import numpy as np
import prepared
import pytest
import setuptools
from commands import commands
from documentation import PAGES, ROOT, SCRIPT, blocks
from PIL import Image
from test_documentation import CONTRIBUTING, network
from test_launch_scripts import HOST, cluster, environment
from tiny import TINY

__all__ = ["cluster"]
pytestmark = pytest.mark.slow

# Takes the place of data sets that would have to be downloaded.
TFDS = "ten_classes"
# Sizes of every training run.
SMALL = (
    "--config.total_steps=2",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
    "--config.data.train_examples=0",
)
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
        patch.setattr(setuptools, "setup", lambda **options: given.update(options))
        runpy.run_path(str(ROOT / "setup.py"))
    return given["extras_require"]


class Reader:
    """Does what a page says, in a folder of its own."""

    def __init__(self, folder, launch, cluster, extras):
        self.folder = self.here = folder
        self.launch, self.cluster, self.extras = launch, cluster, extras
        self.names = network()

    def read(self, page):
        for block in blocks(page):
            self.here = self.folder  # each block is typed into a new terminal
            getattr(self, f"do_{block.language}")(block)

    def do_python(self, block):
        if block.file:
            path = self.folder / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text.partition("\n")[2])
        else:
            exec(compile(block.code, str(block.page), "exec"), self.names)

    def do_bash(self, block):
        for command in block.commands:
            words = [self.placed(word) for word in command.words]
            kind = command.kind
            run = getattr(self, f"run_{kind}", self.run_launch)
            run(kind, words[1:], command.variables)

    def do_text(self, block):
        """Nothing to do."""

    def placed(self, word):
        """What stands for a folder of the user's, in this one."""
        word = word.replace("gs://BUCKET", str(self.folder / "bucket"))
        places = {"RUN": "run", "DIR": "dir", "FOLDER": "images"}
        name, equal, value = word.partition("=")
        if value in places:
            value = str(self.folder / places[value])
        return name + equal + value

    def run_cd(self, kind, words, variables):
        (name,) = words
        self.here = self.here / name
        assert self.here.is_dir(), name

    def run_pip(self, kind, words, variables):
        """What it would install exists, and is what the page says."""
        assert words[0] == "install"
        for word in words[1:]:
            if word in ("-U", "-e", "-r"):
                continue
            name, _, extra = word.rstrip("]").partition("[")
            if name == "jax":
                assert extra in importlib.metadata.metadata(name).get_all(
                    "Provides-Extra"
                )
            elif extra:
                assert name == "."
                assert extra in self.extras, word
            else:
                assert (ROOT / name).exists(), word

    def run_pytest(self, kind, words, variables):
        """The tests that it would run, without files of tests; they are running now."""
        collected = [*words, "--collect-only", "-q", "tests/test_wheel.py"]
        self.python("-m", "pytest", *collected, codes=(0, 5))

    def run_ruff(self, kind, words, variables):
        self.python("-m", "ruff", *words)

    def run_mypy(self, kind, words, variables):
        self.python("-m", "mypy", *words, f"--cache-dir={self.folder / 'types'}")

    def python(self, *words, codes=(0,)):
        paths = [self.root, self.root / "tests"]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))},
            capture_output=True,
            text=True,
        )
        assert done.returncode in codes, done.stdout + done.stderr

    @property
    def root(self):
        """The checkout that commands of a developer are run in."""
        return ROOT

    def run_launch(self, kind, words, variables):
        assert not variables
        program, *words = words
        found = SCRIPT.fullmatch(program)
        assert (self.here / program).resolve() == self.folder / f"launch/{kind}.py"
        words = [*words, *self.sizes(found[1], words)]
        done = self.launch(kind, *words, folder=self.here)
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"

    def sizes(self, program, words):
        """Options that make a command quick; later ones win."""
        if program == "explain":
            return ["--num_examples=2", "--metric_images=4"]
        if program == "agreement":
            return ["--num_images=20"]
        if program == "study" and "configs/studies/" not in words[0]:
            return ["--time_budget=20"]  # seconds, after which it can be continued
        if program != "main":
            return []
        text, sizes = " ".join(words), [*SMALL]
        if "--config.model.name=" not in text:
            sizes.append(f"--config.model.name={TINY}")
        if "configs/digits.py" not in text:
            sizes += ["--config.data.load_size=8", "--config.data.image_size=0"]
            if "--config.data.name=" not in text:
                sizes.append(f"--config.data.name={TFDS}")
        if "--config.method.name=kd" in text:
            sizes += [
                "--config.method.teacher_model=tiny:build_another",
                "--config.method.teacher_steps=2",
                "--config.method.teacher_examples=0",
            ]
        return sizes

    def run_tpu_vm(self, kind, words, variables):
        assert not variables
        venv = environment(self.folder / "venv")
        done, _ = self.cluster("tpu_vm.sh", *words, does={}, VIRTUAL_ENV=str(venv))
        self.started((venv / "ran").read_text(), done, words)

    def run_tpu_pod(self, kind, words, variables):
        host, venv = self.folder / "host", environment(self.folder / "pod")
        host.mkdir()
        done, called = self.cluster(
            "tpu_pod.sh",
            *words,
            does={"gcloud": HOST},
            HOST=str(host),
            VIRTUAL_ENV=str(venv),
            **variables,
        )
        assert all(f"--zone={variables['ZONE']}" in line for line in called)
        assert all(f"{variables['TPU']}" in line for line in called)
        self.started((venv / "ran").read_text(), done, words)

    def run_sbatch(self, kind, words, variables):
        """Options of SLURM are those that the script sets for itself."""
        assert not variables
        place = next(i for i, word in enumerate(words) if not word.startswith("-"))
        script = pathlib.Path(words[place])
        for option in words[:place]:
            assert f"#SBATCH {option.split('=')[0]}=" in (ROOT / script).read_text()
        does = {"srun": "exit 0", "scontrol": "exit 1"}
        assert script.parent == pathlib.Path("launch")
        done, called = self.cluster(script.name, *words[place + 1 :], does=does)
        (line,) = called
        ran = line.strip("[]").replace("][", " ")
        self.started(ran, done, words[place + 1 :])

    def started(self, ran, done, words):
        """The script has started `launch/main.py`, which takes what it was given."""
        assert done.returncode == 0, done.stderr
        assert ran.rstrip().endswith(" ".join(["launch/main.py", *words]))
        self.run_launch("main", ["launch/main.py", *words], {})


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
    monkeypatch.chdir(folder)
    if "RUN" in page.read_text():
        name = f"--config={ROOT / 'configs' / 'digits.py'}"
        small = [*SMALL, f"--config.model.name={TINY}", "--workdir=run"]
        done = launch("main", name, *small, folder=folder)
        assert done.returncode == 0, done.stderr
    reader = Reader(folder, launch, cluster, extras)
    reader.read(page)


class Contributor(Reader):
    """Works in a copy of the checkout: adds parts to it, tests and trains them."""

    @property
    def root(self):
        return self.folder

    def do_diff(self, block):
        done = subprocess.run(
            ["git", "apply", "-"],
            input=block.text,
            cwd=self.folder,
            env=os.environ | {"GIT_CEILING_DIRECTORIES": str(self.folder.parent)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr

    def run_pytest(self, kind, words, variables):
        if not any(word.endswith(".py") for word in words):
            return super().run_pytest(kind, words, variables)
        return self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *words)

    def run_mypy(self, kind, words, variables):
        """Done once, when all has been added."""

    def run_launch(self, kind, words, variables):
        program, *words = words
        self.python(program, *words, *self.sizes(kind, words), "--workdir=runs/it")
        shutil.rmtree(self.folder / "runs")


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
