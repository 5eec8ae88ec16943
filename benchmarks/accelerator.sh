#!/usr/bin/env bash
# What is worth running on an accelerator, in pieces of less than nine minutes.
#
#   benchmarks/accelerator.sh PIECE...
#   benchmarks/accelerator.sh list
#
# A piece leaves two files in $OUT: PIECE.log, and PIECE.jsonl with a line for each
# result, {"step": ..., "result": ...}. Both are appended to. A step that fails, or that
# the time of its piece is too short for, is named at the end, and the exit code is 1;
# the steps after it run. From the environment:
#
#   OUT     folder of the files (benchmarks/results/accelerator)
#   WORK    folder of runs, which may be removed afterwards (a new one of mktemp)
#   LIMIT   seconds of a piece (530)
#   SEEDS   of the piece `fast` ("0 1 2 3 4")
#   WORKERS of the study in `comparison` (8)
#   DTYPE   of the networks in `fast` and `cifar10`: bfloat16 (the default) or float32
#   PYTHON  the interpreter (python3)
#
# `fast`, `comparison`, `waiting` and `cifar10` need TFDS_DATA_DIR, `speed` PyTorch,
# `attribution` captum too, and the suites pytest and beartype. Begin with `smoke`: a
# package that is missing shows there.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

OUT=${OUT:-benchmarks/results/accelerator}
LIMIT=${LIMIT:-530}
SEEDS=${SEEDS:-0 1 2 3 4}
DTYPE=${DTYPE:-bfloat16}
PYTHON=${PYTHON:-python3}

usage() {
  cat <<'TEXT'
smoke        versions, devices, the digits
fast         configs/cifar10.py:fast, standard and introspective, a pair a seed
speed        training_speed.py
cost         step_cost.py
methods      method_cost.py
comparison   configs/studies/comparison.py:clipped, as far as it comes
suite        the tests as everywhere, on the CPU
suite_here   the tests of numbers, on the accelerator
profile      step_profile.py
seeds        seeds.py
waiting      input_wait.py
attribution  attribution_speed.py
cifar10      configs/cifar10.py, as far as it comes
TEXT
}

known=" $(usage | cut -d' ' -f1 | tr '\n' ' ')"
if [ $# -eq 0 ] || [ "$1" = list ]; then
  usage
  exit
fi
for name in "$@"; do
  case $known in
    *" $name "*) ;;
    *) printf 'error: no piece is called %s; they are:\n' "$name" >&2
       usage >&2
       exit 2 ;;
  esac
done

mkdir -p "$OUT" || exit
OUT=$(cd "$OUT" && pwd)
if [ -z "${WORK:-}" ]; then
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
fi
mkdir -p "$WORK" || exit
export PYTHONUNBUFFERED=1
# One cache for all, that of launch/main.py; what is compiled once is not again.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/introspect_jax/compiled
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$cache}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0

piece="" deadline=0 last=0
failed=()

say() { printf '== %s (%d s)\n' "$*" "$SECONDS" | tee -a "$OUT/$piece.log"; }

fail() {
  failed+=("$piece: $1")
  say "FAILED: $1"
}

# step NAME SECONDS COMMAND...: the command, for at most so long. SIGTERM, at which runs
# save their state, then SIGKILL. Its exit code is left in $last.
step() {
  local name=$1 limit=$2 left
  shift 2
  left=$((deadline - SECONDS - 15))
  [ "$limit" -lt "$left" ] || limit=$left
  if [ "$limit" -lt 15 ]; then
    last=124
    fail "$name: not started, no time is left"
    return 1
  fi
  say "$name, at most $limit s"
  timeout --kill-after=15 "$limit" "$@" 2>&1 | tee -a "$OUT/$piece.log"
  last=${PIPESTATUS[0]}
  [ "$last" -eq 0 ] || fail "$name: exit code $last"
  return "$last"
}

# keep NAME FILE: what the file holds is a line of the results, if there is such a file.
keep() {
  [ -s "$2" ] || return 0
  "$PYTHON" - "$1" "$2" >>"$OUT/$piece.jsonl" <<'PY'
import json
import sys

print(json.dumps({"step": sys.argv[1], "result": json.load(open(sys.argv[2]))}))
PY
}

# benchmark SECONDS SCRIPT ARGUMENTS...: it writes rows as it gets them.
benchmark() {
  local limit=$1 script=$2 file=$WORK/rows.json
  shift 2
  rm -f "$file"
  step "$script $*" "$limit" "$PYTHON" "benchmarks/$script.py" "$@" --json="$file"
  keep "$script $*" "$file"
}

# train NAME SECONDS ARGUMENTS...: a run.
train() {
  local name=$1 limit=$2 folder=$WORK/$1
  shift 2
  step "$name" "$limit" "$PYTHON" launch/main.py "$@" --workdir="$folder"
  keep "$name" "$folder/summary.json"
}

has() { "$PYTHON" -c "import $1" 2>/dev/null; }

smoke() {
  step versions 120 "$PYTHON" - <<'PY'
import importlib.metadata
import json
import platform

names = "jax jaxlib flax optax orbax-checkpoint chex numpy torch captum grain".split()
names += ["jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu", "tensorflow-datasets"]
for name in names:
    try:
        print(name, importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        print(name, "-")
import jax

from introspect_jax.machine import describe_device

print("python", platform.python_version())
print(jax.devices(), json.dumps(describe_device(jax.device_count())))
PY
  ! command -v nvidia-smi >/dev/null || step nvidia-smi 30 nvidia-smi
  train digits 240 --config=configs/digits.py
}

fast() {
  benchmark "$LIMIT" runs --config=configs/cifar10.py:fast \
    --config.model.dtype="$DTYPE" --seeds="${SEEDS// /,}"
}

speed() {
  local classes dtype
  for classes in 10 100; do
    for dtype in float32 bfloat16; do
      benchmark 240 training_speed --classes="$classes" --dtype="$dtype" --compiled=
    done
  done
  # What was compiled by JAX above is not again.
  for dtype in float32 bfloat16; do
    benchmark 240 training_speed --classes=10 --dtype="$dtype" --compiled=10
  done
}

cost() {
  local classes dtype
  for classes in 10 100 1000; do
    for dtype in float32 bfloat16; do
      benchmark 270 step_cost --classes="$classes" --dtype="$dtype"
    done
  done
}

methods() {
  benchmark 260 method_cost --dtype=bfloat16
  benchmark 260 method_cost --dtype=float32
}

comparison() {
  # Workers take parts of a GPU that one run does not fill.
  local folder=$WORK/comparison
  step comparison "$LIMIT" env XLA_PYTHON_CLIENT_PREALLOCATE=false "$PYTHON" \
    launch/study.py --study=configs/studies/comparison.py:clipped --workdir="$folder" \
    --workers="${WORKERS:-8}" --time_budget=$((LIMIT - 60))
  [ ! -d "$folder" ] || tar -C "$WORK" --exclude=checkpoints -czf \
    "$OUT/$piece.tar.gz" comparison
}

# pytest for all of the time of the piece, on several processes where xdist is at hand.
tests() {
  local name=$1 most=$2 workers=()
  shift 2
  if has xdist; then
    local count
    count=$(nproc)
    workers=(-n "$((count < most ? count : most))")
  fi
  # With a compilation cache of their own.
  step "$name" "$LIMIT" env -u JAX_COMPILATION_CACHE_DIR \
    -u JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS "$PYTHON" -m pytest -q \
    -p no:cacheprovider -ra --durations=15 "${workers[@]}" "$@"
}

suite() {
  local left_out=()
  has mypy || left_out+=(--ignore=tests/test_typing.py)
  # They ask what is committed.
  git rev-parse --quiet --verify HEAD >/dev/null 2>&1 ||
    left_out+=(--ignore=tests/test_launch_scripts.py)
  [ ${#left_out[@]} -eq 0 ] || say "left out: ${left_out[*]}"
  tests suite 12 "${left_out[@]}"
}

suite_here() {
  # Numbers are compared with those of exact float32; processes share the memory.
  INTROSPECT_TEST_PLATFORM="" JAX_DEFAULT_MATMUL_PRECISION=highest \
    XLA_PYTHON_CLIENT_PREALLOCATE=false tests suite_here 8 \
    tests/test_introspection.py tests/explain tests/objectives tests/methods \
    tests/models
}

profile() {
  benchmark 260 step_profile --dtype=bfloat16
  benchmark 260 step_profile --dtype=float32
}

seeds() { benchmark "$LIMIT" seeds; }

waiting() { benchmark "$LIMIT" input_wait; }

attribution() {
  if ! has captum; then
    say "skipped: captum and PyTorch are not both installed"
    return
  fi
  benchmark 260 attribution_speed --models=resnet20:10:16
  benchmark 260 attribution_speed --models=resnet18:100:4
}

cifar10() {
  local name=cifar10-introspective-$DTYPE-seed0
  train "$name" "$LIMIT" --config=configs/cifar10.py --config.model.dtype="$DTYPE"
  # Stopped with its state saved, as it is meant to be; WORK keeps it for another call.
  if [ "$last" -eq 75 ] || [ "$last" -eq 124 ]; then
    unset 'failed[-1]'
    say "stopped; the same piece with the same WORK continues"
  fi
  [ ! -s "$WORK/$name/metrics.jsonl" ] ||
    cp "$WORK/$name/metrics.jsonl" "$OUT/$piece.metrics.jsonl"
}

for piece in "$@"; do
  deadline=$((SECONDS + LIMIT))
  say "$piece"
  "$piece"
done

if [ ${#failed[@]} -gt 0 ]; then
  printf '\n%d steps failed:\n' "${#failed[@]}"
  printf '  %s\n' "${failed[@]}"
  exit 1
fi
printf '\nall steps ran (%d s)\n' "$SECONDS"
