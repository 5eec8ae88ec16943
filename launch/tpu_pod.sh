#!/usr/bin/env bash
# A run on all hosts of a TPU pod slice, started from a workstation that has gcloud:
#
#   TPU=NAME ZONE=ZONE launch/tpu_pod.sh \
#       --config=configs/imagenet.py --workdir=gs://BUCKET/runs/imagenet
#
# Brings the committed state of this clone to every host, into a folder of its own for
# each commit, where no file of another one is, and starts launch/tpu_vm.sh on all of
# them; JAX finds the hosts of the pod by itself. Runs and data must be in folders that
# every host can reach (gs://). TFDS_DATA_DIR and PYTHON are passed on. After a
# preemption of the pod the same command continues.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?set TPU to the name of the TPU VM}" "${ZONE:?set ZONE to its zone}"

name="introspect-jax-$(git rev-parse --short=12 HEAD)"
archive="$(mktemp -d)/$name.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
git archive --format=tar.gz --prefix="$name/" --output="$archive" HEAD

on_all() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE" --worker=all; }
on_all scp "$archive" "$TPU:"
command=$(printf '%q ' env ${TFDS_DATA_DIR:+"TFDS_DATA_DIR=$TFDS_DATA_DIR"} \
  ${PYTHON:+"PYTHON=$PYTHON"} launch/tpu_vm.sh "$@")
on_all ssh "$TPU" \
  --command="tar xzf $name.tar.gz && rm $name.tar.gz && cd $name && $command"
