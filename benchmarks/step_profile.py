"""Time of a training step by kind of operation.

    python benchmarks/step_profile.py --json=FILE

Traces a few steps of the programs of `step_cost.py` with `jax.profiler` and adds up the
compiled operations: forward convolutions (also of explanations), their gradients to
inputs and to weights, transposes and copies (which some backends need before the weight
gradients), and the other operations by their purpose. Shares are of the traced time of
the device, without the host.
"""

import collections
import glob
import gzip
import json
import pathlib
import re
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
from absl import app, flags, logging
from step_cost import VARIANTS, Step
from timing import random_dataset, record, show

from introspect_jax import cpu

FLAGS = flags.FLAGS
flags.DEFINE_list("variants", ["standard", "projection"], "Of step_cost.py.")
flags.DEFINE_integer("steps", 5, "Traced steps.")

FORWARD, TO_INPUTS, TO_WEIGHTS, TRANSPOSES, ELEMENTWISE, AUGMENTATION, OTHER = (
    "convolutions, forward",
    "convolutions, gradients to inputs",
    "convolutions, gradients to weights",
    "transposes and copies",
    "normalisation, ReLU, additions",
    "augmentation",
    "other",
)
# Of cuDNN; elsewhere convolutions are told apart by their shapes and names.
_CUDNN = {
    "convForward": FORWARD,
    "convBiasActivationForward": FORWARD,
    "convBackwardInput": TO_INPUTS,
    "convBackwardFilter": TO_WEIGHTS,
}


def computations(hlo: str) -> dict[str, list[str]]:
    """Name -> lines of each computation of a compiled program."""
    by_name: dict[str, list[str]] = {}
    for line in hlo.splitlines():
        head = re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            lines = by_name.setdefault(head[1], [])
        elif "=" in line and by_name:
            lines.append(line)
    return by_name


def kinds(hlo: str) -> dict[str, str]:
    """Name of each operation -> its kind."""
    inside = computations(hlo)
    by_name = {}
    for lines in inside.values():
        for line in lines:
            name = re.match(r"\s*(?:ROOT )?%?([\w.\-]+) = ", line)
            called = re.search(r"calls=%?([\w.\-]+)", line)
            if name:
                body = inside.get(called[1], []) if called else []
                by_name[name[1]] = _kind(name[1], [line, *body])
    return by_name


def _kind(name: str, lines: list[str]) -> str:
    text = "\n".join(lines)
    for target, kind in _CUDNN.items():
        if f"cudnn${target}" in text:
            return kind
    convolution = re.search(
        r"= \w+\[(?:\d+,)*?(\d+),(\d+),\d+\]\S* convolution\(.*size=(\d+)x", text
    )
    if convolution:
        # The "kernel" of a weight gradient is as large as the maps.
        if int(convolution[3]) >= int(convolution[1]):
            return TO_WEIGHTS
        return TO_INPUTS if "transpose(jvp" in text else FORWARD
    if re.match(r"transpose|copy|wrapped_copy|wrapped_transpose", name):
        return TRANSPOSES
    operation = re.search(r'op_name="([^"]*)"', text)
    path = operation[1] if operation else ""
    if "Classifier" in path or "add_any" in path or re.search(r"maximum|select", name):
        return ELEMENTWISE
    if re.search(r"gather|threefry|random|slice|vmap|select_n|while", path):
        return AUGMENTATION
    return OTHER


def traced(step: Step) -> dict[str, float]:
    """Operation -> milliseconds a step."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, create_perfetto_trace=True):
            for _ in range(FLAGS.steps):
                step()
        (path,) = glob.glob(f"{folder}/**/perfetto_trace.json.gz", recursive=True)
        with gzip.open(path) as file:
            events = json.load(file)["traceEvents"]
    taken: collections.Counter[str] = collections.Counter()
    for event in events:
        operation = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and operation:
            taken[operation] += event["dur"] / 1000 / FLAGS.steps
    if not taken:
        raise SystemExit(
            f"the trace of {jax.devices()[0].device_kind} names no operations (no "
            "hlo_op in its events): nothing can be added up"
        )
    return dict(taken)


def measure(variant: str, classes: int) -> list[dict]:
    """A row for each kind of work, the largest first."""
    dataset = random_dataset(classes, 32, 2 * FLAGS.batch_size)
    step = Step(VARIANTS[variant], dataset)
    kind_of = kinds(step.run.as_text())
    step.warm_up()
    taken = traced(step)
    totals: collections.Counter[str] = collections.Counter()
    for operation, spent in taken.items():
        totals[kind_of.get(operation, OTHER)] += spent
    whole = sum(totals.values())
    return [
        {
            "variant": variant,
            "work": kind,
            "share": spent / whole,
            "operations": sum(kind_of.get(name, OTHER) == kind for name in taken),
            "milliseconds_a_step": spent,
        }
        for kind, spent in totals.most_common()
    ]


def main(_):
    logging.set_verbosity(logging.WARNING)
    if FLAGS.fast_cpu:
        cpu.switch_on()
    classes = int(FLAGS.classes[0])
    rows = [row for name in FLAGS.variants for row in measure(name, classes)]
    show(
        f"{FLAGS.model}, batch {FLAGS.batch_size}: where a step's time goes",
        ("variant<", "work<", "share", "operations"),
        [
            (
                row["variant"],
                row["work"],
                f"{100 * row['share']:.1f} %",
                str(row["operations"]),
            )
            for row in rows
        ],
    )
    record(FLAGS.json, rows, model=FLAGS.model, batch_size=FLAGS.batch_size)


if __name__ == "__main__":
    app.run(main)
