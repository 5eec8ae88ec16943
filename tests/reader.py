"""Does what the pages say: runs their blocks in a folder, at small sizes."""

import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys

from documentation import ROOT, SCRIPT, blocks
from test_documentation import network
from test_launch_scripts import HOST, environment
from tiny import TINY

# Takes the place of data sets that would have to be downloaded.
TFDS = "ten_classes"
# Sizes of every training run.
SMALL = (
    "--config.total_steps=2",
    "--config.batch_size=16",
    "--config.eval_batch_size=16",
    "--config.data.train_examples=0",
)


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
        places = {
            "RUN": "run",
            "DIR": "dir",
            "FOLDER": "images",
            "NAMES": "names",
            "PARAMS": "params",
        }
        name, equal, value = word.partition("=")
        if value in places:
            value = str(self.folder / places[value])
        if value == "package.module:factory":
            value = TINY
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
            sizes = ["--num_examples=2", "--metric_images=4"]
            described = any(word.startswith("--model=") for word in words)
            # Of the network that RUN is of.
            net = ["--image_size=8", "--channels=1", "--mean=0.5", "--std=0.5"]
            return [*sizes, *net] if described else sizes
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
