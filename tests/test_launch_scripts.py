"""Scripts for clusters, with stand-ins for the clusters' own commands."""

import os
import subprocess

import pytest
from conftest import ROOT


@pytest.fixture
def cluster(tmp_path):
    """Runs a script; returns its exit code and the commands that it called."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def call(script, *arguments, codes, **environment):
        called = tmp_path / "called"
        called.write_text("")
        for name, code in codes.items():
            path = folder / name
            path.write_text(
                f'#!/bin/sh\nfor a in {name} "$@"; do printf "[%s]" "$a"; done >> '
                f'"{called}"\necho >> "{called}"\nexit {code}\n'
            )
            path.chmod(0o755)
        done = subprocess.run(
            ["bash", str(ROOT / "launch" / script), *arguments],
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
    codes = {"srun": 75, "scontrol": 0}
    done, called = cluster(
        "slurm.sbatch", "--config=a b.py", codes=codes, VIRTUAL_ENV="/v"
    )
    assert done.returncode == 0
    assert called[0].endswith("[/v/bin/python][launch/main.py][--config=a b.py]")
    assert called[1] == "[scontrol][requeue][7]"


@pytest.mark.parametrize("code", [0, 1, 137])
def test_slurm_keeps_other_exit_codes(cluster, code):
    done, called = cluster("slurm.sbatch", codes={"srun": code, "scontrol": 0})
    assert done.returncode == code
    assert len(called) == 1


def test_tpu_pod_brings_the_code_to_every_host_and_starts_it(cluster):
    done, called = cluster(
        "tpu_pod.sh",
        "--config=configs/imagenet.py",
        "--workdir=gs://b/a run",
        codes={"gcloud": 0},
        TPU="pod",
        ZONE="z",
        TFDS_DATA_DIR="gs://b/data",
    )
    assert done.returncode == 0, done.stderr
    copy, start = called
    assert copy.startswith("[gcloud][compute][tpus][tpu-vm][scp]")
    assert all("[--zone=z][--worker=all]" in line for line in called)
    command = "env TFDS_DATA_DIR=gs://b/data launch/tpu_vm.sh --config="
    assert command in start
    assert "--workdir=gs://b/a\\ run" in start


def test_tpu_pod_says_what_it_needs(cluster):
    done, called = cluster("tpu_pod.sh", codes={"gcloud": 0}, TPU="", ZONE="z")
    assert done.returncode != 0
    assert "set TPU to the name of the TPU VM" in done.stderr
    assert not called
