"""The command as users run it: what goes wrong ends in one line."""

import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import SETTINGS
from conftest import ROOT
from PIL import Image
from tiny import TINY

from introspect_jax.methods import modules

DIGITS = "--config=configs/digits.py"


def main(*arguments, devices=1):
    """The command in a process of its own."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return subprocess.run(
        [sys.executable, "launch/main.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--config is missing; there are: configs/cifar10.py"),
        (["--config=configs/digit.py"], "did you mean 'configs/digits.py'?"),
        (["--config=configs/digits.py:quick"], "takes no argument, got 'quick'"),
        ([DIGITS, "--cofnig.seed=1"], "unknown flag --cofnig.seed"),
        (
            [DIGITS, "--config.optimizer.lerning_rate=1"],
            "did you mean 'optimizer.learning_rate'?",
        ),
        ([DIGITS, "--config.seed=three"], "--config.seed=three"),
        (
            [DIGITS, "--config.optimizer=sgd"],
            "config.optimizer is a group; set one of: optimizer.b2",
        ),
        ([DIGITS, "seed=3"], "unexpected argument 'seed=3'"),
        (
            [DIGITS, "--config.method.introspective.explanation=gradients"],
            "did you mean 'gradient'?",
        ),
        ([DIGITS, "--config.data.name=digit"], "did you mean 'digits'?"),
        (
            [DIGITS, "--config.data.augment.flip=alternate"],
            "data.augment.flip must be True, False or 'alternating', got 'alternate'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_end_in_one_line(command, arguments, says, tmp_path):
    done = command("main", *arguments, f"--workdir={tmp_path / 'run'}")
    errors = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert says in errors[0]


def test_devices_that_cannot_share_the_batch(tmp_path):
    done = main(DIGITS, "--config.batch_size=50", f"--workdir={tmp_path}", devices=4)
    assert done.returncode == 1
    assert done.stderr == (
        "error: batch_size must be a multiple of the 4 devices, got 50\n"
    )


def test_two_classes_have_no_others(command, tmp_path):
    generator = np.random.RandomState(0)
    for name in ("cat", "dog"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(40):
            pixels = generator.randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    arguments = [
        DIGITS,
        "--config.data.name=folder",
        f"--config.data.data_dir={tmp_path / 'images'}",
        "--config.data.load_size=8",
        "--config.batch_size=16",
        f"--config.model.name={TINY}",
        f"--workdir={tmp_path / 'run'}",
    ]
    done = command("main", *arguments)
    assert done.returncode == 1
    assert "the data have 2 classes" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    # The line says what to do: it works, in the same folder.
    done = command(
        "main",
        *arguments,
        "--config.method.introspective.support=all",
        "--config.total_steps=2",
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "summary.json").exists()


def test_default_folder_no_tensorflow_nothing_deprecated(tmp_path):
    """Run from elsewhere: `runs/<config>-<hash>` of the current folder."""
    program = (
        "import sys, runpy, warnings; sys.argv = sys.argv[1:]\n"
        "warnings.simplefilter('error', DeprecationWarning)\n"
        "warnings.filterwarnings('ignore', 'the load_module')  # ml_collections\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally:\n    print('tensorflow' in sys.modules, file=sys.stderr)\n"
    )
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            program,
            str(ROOT / "launch" / "main.py"),
            f"--config={ROOT / 'configs' / 'digits.py'}",
            "--config.total_steps=2",
            "--config.method.name=standard",
            f"--config.model.name={TINY}",
        ],
        cwd=tmp_path,
        env=os.environ | SETTINGS,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().endswith("False")
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("digits-")
    stored = json.loads((folder / "config.json").read_text())
    assert stored["method"]["name"] == "standard"
    assert stored["total_steps"] == 2


@pytest.mark.slow
def test_digits_reach_the_documented_accuracy(tmp_path):
    scores = []
    for seed in range(3):
        workdir = tmp_path / str(seed)
        done = main(DIGITS, f"--config.seed={seed}", f"--workdir={workdir}")
        assert done.returncode == 0, done.stderr
        summary = json.loads((workdir / "summary.json").read_text())
        assert summary["seconds"] < 180
        scores.append(summary["test"]["last"]["top1"])
    assert np.mean(scores) >= 0.975


# A sixteenth of the default, which is for 16 times as many positions.
FOR_DIGITS = {
    "attention_transfer": ["--config.method.attention_transfer.beta=62.5"],
}


@pytest.mark.slow
def test_every_method_learns_the_digits(tmp_path):
    """By its published defaults but for `FOR_DIGITS`, and in at most four times the
    time of `standard`."""
    summaries = {}
    for name in modules():
        done = main(
            DIGITS,
            f"--config.method.name={name}",
            f"--workdir={tmp_path / name}",
            *FOR_DIGITS.get(name, []),
        )
        assert done.returncode == 0, done.stderr
        summaries[name] = json.loads((tmp_path / name / "summary.json").read_text())
    for name, summary in summaries.items():
        print(name, summary["test"]["last"]["top1"], summary["seconds"])
    for name, summary in summaries.items():
        assert summary["test"]["last"]["top1"] >= 0.95, name
        assert summary["seconds"] <= 4 * summaries["standard"]["seconds"], name


def test_help_lists_every_method(command):
    done = command("main", "--config.method.name=help")
    assert done.returncode == 0
    *lines, own = done.stdout.splitlines()
    *lines, mixup, cutmix = lines  # options of the data, which others count as methods
    assert [line.split()[0] for line in lines] == list(modules())
    for line, module in zip(lines, modules().values(), strict=True):
        assert module.COST in line
    assert "--config.data.augment.mixup=1.0" in mixup
    assert "--config.data.augment.cutmix=1.0" in cutmix
    assert own.endswith("--config.method.name=package.module:object")


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("study", [], "--study is missing"),
        ("study", ["--study=configs/studies/digits.py"], "--workdir is missing"),
        (
            "study",
            ["--study=configs/studies/digit.py", "--workdir=x"],
            "did you mean 'configs/studies/digits.py'?",
        ),
        (
            "study",
            ["--study=configs/digits.py", "--workdir=x"],
            "has no attribute 'get_study'",
        ),
        (
            "study",
            ["--study=configs/studies/digits.py", "--workdir=x", "--workers=0"],
            "--workers must lie in 1..",
        ),
        ("study", ["--stud=x"], "unknown flag --stud (did you mean '--study'?)"),
        ("report", [], "--workdir is missing"),
        ("report", ["--workdir=x", "--output=y"], "'x' is not the folder of a study"),
        ("report", ["--index=x"], "--index 'x' has no results"),
        ("agreement", ["--workdir=x"], "--teacher is missing"),
        (
            "agreement",
            ["--workdir=x", "--teacher=y", "--output=z"],
            "'x' is not the work folder of a run",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_mistakes_with_studies_end_in_one_line(
    command, program, arguments, says, tmp_path
):
    done = command(program, *arguments, folder=linked(tmp_path))
    errors = [line for line in done.stderr.splitlines() if line]
    assert done.returncode == 1, done.stderr
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("error: ")
    assert says in errors[0]


def linked(folder):
    """An empty folder but for the configs."""
    (folder / "configs").symlink_to(ROOT / "configs")
    return folder


def test_class_names_and_folders_that_the_console_cannot_print(tmp_path):
    generator = np.random.RandomState(0)
    for name in ("語", os.fsdecode(b"\xffx"), "a$b$"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(12):
            pixels = generator.randint(0, 256, (8, 8, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    (tmp_path / "images" / "語" / os.fsdecode(b"\xfe.txt")).touch()
    folder = tmp_path / "語"
    done = subprocess.run(
        [
            *(sys.executable, "launch/main.py", DIGITS, "--config.data.name=folder"),
            f"--config.data.data_dir={tmp_path / 'images'}",
            "--config.data.load_size=8",
            "--config.batch_size=8",
            "--config.total_steps=2",
            f"--config.model.name={TINY}",
            f"--workdir={folder}",
        ],
        cwd=ROOT,
        env=os.environ | SETTINGS | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert b"?: config, metrics, checkpoints and pictures are there" in done.stdout
    assert b"Traceback" not in done.stderr, done.stderr
    assert b"could not be drawn" not in done.stderr
    assert (folder / "explanations.png").exists()
    assert (folder / "class_similarity.png").exists()


def test_the_same_command_twice(command, tmp_path):
    """The second is refused, and what the first does is as it would have been."""
    words = [DIGITS, f"--config.model.name={TINY}", "--config.total_steps=400"]
    words += ["--config.eval_steps=400", f"--workdir={tmp_path / 'run'}"]
    env = os.environ | {"PYTHONPATH": str(ROOT / "tests")}
    first = subprocess.Popen(
        [sys.executable, "launch/main.py", *words],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
    )
    while first.poll() is None and not (tmp_path / "run" / "data.json").exists():
        time.sleep(0.1)
    done = command("main", *words)
    assert done.returncode == 1
    line = f"error: process {first.pid} on {socket.gethostname()} (since "
    assert done.stderr.startswith(line)
    assert len(done.stderr.splitlines()) == 1
    first.kill()
    first.wait()
    words.append("--config.total_steps=2")
    done = command("main", *words)  # its lock blocks nobody
    assert "holds a run of another config (total_steps: 400" in done.stderr


def test_home_is_expanded_and_odd_characters_refused(command, tmp_path, monkeypatch):
    done = command("main", DIGITS, f"--workdir={tmp_path}/lr=[0.1]")
    assert done.returncode == 1
    assert done.stderr == (
        f"error: work folder '{tmp_path}/lr=[0.1]' has [ ], with which checkpoints "
        "cannot be read again; choose a path without\n"
    )
    done = command("main", "--config=~/nowhere.py")
    home = os.path.expanduser("~")
    assert f"no config file '{home}/nowhere.py'" in done.stderr
    done = command("explain", "--workdir=~/nowhere", f"--output={tmp_path}")
    assert f"'{home}/nowhere' is not the work folder of a run" in done.stderr
