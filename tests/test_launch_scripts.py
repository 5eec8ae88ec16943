"""Scripts for clusters, with stand-ins for the clusters' own commands."""

import os
import re
import subprocess

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def script(path, *lines):
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(0o755)


@pytest.fixture
def cluster(tmp_path):
    """Runs a script; returns the process and the commands that it called."""
    folder = tmp_path / "bin"
    called = tmp_path / "called"

    def call(name, *arguments, does, **environment):
        """`does`: command -> what its stand-in does when it has written itself down."""
        called.write_text("")
        tell = f'{{ printf "[%s]" "$(basename "$0")" "$@"; echo; }} >> "{called}"'
        for command, body in does.items():
            script(folder / command, tell, body)
        done = subprocess.run(
            ["bash", str(ROOT / "launch" / name), *arguments],
            env=os.environ
            | {"PATH": f"{folder}:{os.environ['PATH']}"}
            | {"SLURM_SUBMIT_DIR": str(ROOT), "SLURM_JOB_ID": "7"}
            | environment,
            capture_output=True,
            text=True,
        )
        return done, called.read_text().splitlines()

    return call


def test_slurm_requeues_what_was_stopped(cluster):
    does = {"srun": "exit 75", "scontrol": "exit 0"}
    done, called = cluster(
        "slurm.sbatch", "--config=a b.py", does=does, VIRTUAL_ENV="/v"
    )
    assert done.returncode == 0
    assert called[0].endswith("[/v/bin/python][launch/main.py][--config=a b.py]")
    assert called[1] == "[scontrol][requeue][7]"


@pytest.mark.parametrize("code", [0, 1, 137])
def test_slurm_keeps_other_exit_codes(cluster, code):
    does = {"srun": f"exit {code}", "scontrol": "exit 0"}
    done, called = cluster("slurm.sbatch", does=does)
    assert done.returncode == code
    assert len(called) == 1


# The copy goes to the one host there is, and the command is run there.
HOST = """case $4 in
scp) cp "$5" "$HOST" ;;
ssh) cd "$HOST" && for word; do
  case $word in --command=*) bash -c "${word#--command=}" || exit ;; esac
done ;;
esac"""


def environment(folder):
    """An environment whose Python only writes down where it is and what it gets."""
    python = folder / "bin" / "python"
    script(python, f'echo "$PWD" "$TFDS_DATA_DIR" "$@" >> "{folder}/ran"')
    return folder


def test_tpu_pod_brings_the_code_to_every_host_and_starts_it(cluster, tmp_path):
    host, venv = tmp_path / "host", environment(tmp_path / "venv")
    (host / "introspect-jax" / "introspect_jax").mkdir(parents=True)
    (host / "introspect-jax" / "introspect_jax" / "before.py").touch()
    for _ in range(2):  # the second time as after a preemption
        done, called = cluster(
            "tpu_pod.sh",
            "--config=configs/imagenet.py",
            "--workdir=gs://b/a run",
            does={"gcloud": HOST},
            TPU="pod",
            ZONE="z",
            TFDS_DATA_DIR="gs://b/data",
            HOST=str(host),
            VIRTUAL_ENV=str(venv),
        )
        assert done.returncode == 0, done.stderr
        assert [line.split("[")[4:6] for line in called] == [
            ["tpu-vm]", "scp]"],
            ["tpu-vm]", "ssh]"],
        ]
        assert all("[--zone=z][--worker=all]" in line for line in called)
    install, run = (venv / "ran").read_text().splitlines()[-2:]
    folder = run.split()[0]
    assert re.fullmatch(rf"{host}/introspect-jax-[0-9a-f]{{12}}", folder)
    assert install.startswith(f"{folder} gs://b/data -m pip install")
    options = "--config=configs/imagenet.py --workdir=gs://b/a run"
    assert run == f"{folder} gs://b/data launch/main.py {options}"
    # All that is committed, and nothing of before.
    there = {str(p.relative_to(folder)) for p in host.glob("*-*-*/**/*.py")}
    tracked = ["git", "ls-tree", "-r", "--name-only", "HEAD"]
    listed = subprocess.run(tracked, cwd=ROOT, capture_output=True, text=True).stdout
    assert there == {name for name in listed.splitlines() if name.endswith(".py")}
    assert not list(host.glob("*.tar.gz"))


def test_tpu_pod_says_what_it_needs(cluster):
    done, called = cluster("tpu_pod.sh", does={"gcloud": ""}, TPU="", ZONE="z")
    assert done.returncode != 0
    assert "set TPU to the name of the TPU VM" in done.stderr
    assert not called


def test_tpu_vm_installs_exact_versions_and_runs(cluster, tmp_path):
    venv = environment(tmp_path / "venv")
    done, _ = cluster(
        "tpu_vm.sh", "--a", does={}, VIRTUAL_ENV=str(venv), TFDS_DATA_DIR=""
    )
    assert done.returncode == 0, done.stderr
    install, run = (venv / "ran").read_text().splitlines()
    wanted = "--constraint launch/constraints.txt jax[tpu] --editable .[train,gcs]"
    assert install.endswith(wanted)
    assert run.split() == [str(ROOT), "launch/main.py", "--a"]


def test_tpu_vm_refuses_an_old_python(cluster, tmp_path):
    home = {"HOME": str(tmp_path), "VIRTUAL_ENV": ""}
    done, called = cluster("tpu_vm.sh", does={"python3": "exit 1"}, **home)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: python3 is not Python 3.11 or later; set PYTHON to one that is"
    ]
    assert len(called) == 1
    assert not (tmp_path / "introspect-jax-env").exists()


def test_constraints_fix_all_that_training_needs():
    def lines(name):
        text = (ROOT / name).read_text().splitlines()
        return [line for line in text if line and not line.startswith("#")]

    versions = dict(line.split("==") for line in lines("launch/constraints.txt"))
    versions = {canonicalize_name(name): v for name, v in versions.items()}
    for line in [*lines("requirements.txt"), "libtpu", "gcsfs"]:
        needed = Requirement(line)
        assert needed.specifier.contains(versions[canonicalize_name(needed.name)])
