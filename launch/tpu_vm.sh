#!/usr/bin/env bash
# A run on one TPU VM (v2-8, v3-8, v4-8, v5litepod-8, ...), started on that VM from the
# root of a clone:
#
#   launch/tpu_vm.sh --config=configs/cifar10.py --workdir=gs://BUCKET/runs/cifar10
#
# Installs the versions of launch/constraints.txt into VIRTUAL_ENV, by default a new
# environment in the home folder, made by PYTHON (default: python3), 3.11 or later. Data
# are found by TFDS_DATA_DIR, which may be a gs:// folder too. Everything after the name
# of the script goes to launch/main.py. After a preemption the same command continues;
# exit code 75 says that the run was stopped and saved.
set -euo pipefail
cd "$(dirname "$0")/.."

environment="${VIRTUAL_ENV:-$HOME/introspect-jax-env}"
if [ ! -x "$environment/bin/python" ]; then
  python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "error: $python is not Python 3.11 or later; set PYTHON to one that is" >&2
    exit 1
  fi
  "$python" -m venv "$environment"
fi
"$environment/bin/python" -m pip install --quiet --disable-pip-version-check \
  --constraint launch/constraints.txt "jax[tpu]" --editable ".[train,gcs]"
exec "$environment/bin/python" launch/main.py "$@"
