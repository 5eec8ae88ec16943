#!/usr/bin/env bash
# A run on one TPU VM (v2-8, v3-8, v4-8, v5litepod-8, ...), started on that VM from the
# root of a clone:
#
#   launch/tpu_vm.sh --config=configs/cifar10.py --workdir=gs://BUCKET/runs/cifar10
#
# Data are found by TFDS_DATA_DIR, which may be a gs:// folder too. Everything after the
# name of the script goes to launch/main.py. After a preemption the same command
# continues; exit code 75 says that the run was stopped and saved.
set -euo pipefail
cd "$(dirname "$0")/.."

environment="${VIRTUAL_ENV:-$HOME/introspect-jax-env}"
if [ ! -x "$environment/bin/python" ]; then
  python3 -m venv "$environment"
fi
# The TPU build of JAX comes first, so that what needs JAX finds it there.
"$environment/bin/pip" install --quiet --upgrade "jax[tpu]"
"$environment/bin/pip" install --quiet -e ".[gcs]"
exec "$environment/bin/python" launch/main.py "$@"
