"""Speed of explanations compared with captum, on the same networks.

    python benchmarks/attribution_speed.py --json=FILE

Both sides hold the same weights, and each has a process of its own with a thread a
core. Their results must agree before they are timed in turns; times are medians. JAX's
programs are compiled, and compilation is not timed; on CPUs the batch is divided among
the cores. Captum runs eagerly, in the memory format that was fastest in a trial. Both
evaluate as many points at once as was fastest. The benchmark needs torch, captum and an
idle machine: beside one busy process PyTorch's threads wait for each other and took up
to 20 times as long.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import pathlib
import sys

# Both sides share the memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from absl import app, flags
from attribution_sides import EXPLANATIONS, SAMPLED, compare, make_ours, make_theirs
from sides import HERE, KEPT, OFF, THERE, Side, medians, open_sides
from timing import median_ratio, record, show

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "models", ["resnet20:10:16", "resnet18:100:4"], "Networks, name:classes:batch."
)
flags.DEFINE_integer("points", 50, "Steps of integrated gradients, noisy samples.")
flags.DEFINE_integer("repeats", 7, "Timed turns.")
flags.DEFINE_string("json", None, "Where to write the rows.")


def measure(model: tuple[str, int, int, int]) -> list[dict]:
    """A row for each explanation."""
    with contextlib.ExitStack() as stack:
        sides = open_sides(stack, make_ours, make_theirs, model)
        return [_row(model, explanation, sides) for explanation in EXPLANATIONS]


def _row(model: tuple, explanation: str, sides: dict[str, Side]) -> dict:
    for side in sides.values():
        side.make(explanation)
    functions = {name: (side, explanation) for name, side in sides.items()}
    middle, taken = medians(functions, FLAGS.repeats)
    sampled = EXPLANATIONS[explanation] in SAMPLED
    row = {
        "explanation": f"{explanation} {FLAGS.points}" if sampled else explanation,
        "model": model[0],
        "classes": model[1],
        "batch": model[2],
        "seconds_here": middle[HERE],
        "seconds_there": middle[THERE],
        "ratio": median_ratio(taken[THERE], taken[HERE]),
        "repeats": len(taken[HERE]),
    }
    if OFF in sides:
        row["ratio_memory_kept"] = median_ratio(taken[KEPT], taken[HERE])
        row["speed_of_here"] = median_ratio(taken[OFF], taken[HERE])
    return row


def show_rows(rows: list[dict]) -> None:
    def ratio(row: dict, name: str) -> str:
        return f"{row[name]:.2f}x" if name in row else ""

    show(
        "captum's time over ours",
        ("model<", "K", "batch", "explanation<", "ratio", "kept", "off", "differ"),
        [
            (
                row["model"],
                str(row["classes"]),
                str(row["batch"]),
                row["explanation"],
                ratio(row, "ratio"),
                ratio(row, "ratio_memory_kept"),
                ratio(row, "speed_of_here"),
                f"{row['largest_difference']:.0e}",
            )
            for row in rows
        ],
    )


def main(_):
    rows = []
    spawn = multiprocessing.get_context("spawn")
    for text in FLAGS.models:
        name, classes, batch = text.split(":")
        model = (name, int(classes), int(batch), FLAGS.points)
        with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
            differences, torch, captum = pool.submit(compare, model).result()
        more = measure(model)
        for row, explanation in zip(more, EXPLANATIONS, strict=True):
            row["largest_difference"] = differences[explanation]
        rows += more
        record(FLAGS.json, rows, torch=torch, captum=captum)
    show_rows(rows)


if __name__ == "__main__":
    app.run(main)
