#!/usr/bin/env bash
# A run on all hosts of a TPU pod slice, started from a workstation that has gcloud:
#
#   TPU=NAME ZONE=ZONE launch/tpu_pod.sh \
#       --config=configs/imagenet.py --workdir=gs://BUCKET/runs/imagenet
#
# Brings the committed state of this clone to every host and starts launch/tpu_vm.sh on
# all of them; JAX finds the hosts of the pod by itself. Runs and data must be in
# folders that every host can reach (gs://). TFDS_DATA_DIR is passed on. After a
# preemption of the pod the same command continues.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${TPU:?set TPU to the name of the TPU VM}" "${ZONE:?set ZONE to its zone}"

archive="$(mktemp -d)/introspect-jax.tar.gz"
trap 'rm -rf "$(dirname "$archive")"' EXIT
git archive --format=tar.gz --prefix=introspect-jax/ --output="$archive" HEAD

on_all() { gcloud compute tpus tpu-vm "$@" --zone="$ZONE" --worker=all; }
on_all scp "$archive" "$TPU:"
command=$(printf '%q ' env ${TFDS_DATA_DIR:+"TFDS_DATA_DIR=$TFDS_DATA_DIR"} \
  launch/tpu_vm.sh "$@")
on_all ssh "$TPU" \
  --command="tar xzf $(basename "$archive") && cd introspect-jax && $command"
