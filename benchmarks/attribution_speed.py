"""Speed of explanations compared with captum, on the same networks.

    python benchmarks/attribution_speed.py --json=FILE

Both sides hold the same weights and run in one process, with as many threads as there
are cores. Their results must agree before they are timed in turns; times are medians.
JAX's programs are compiled, and compilation is not timed. Captum runs eagerly, in the
memory format that was fastest in a trial. Both evaluate as many points at once as was
fastest. The benchmark needs torch, captum and an idle machine: beside one busy process
PyTorch's threads wait for each other and took up to 20 times as long.
"""

import dataclasses
import os
import pathlib
import statistics
import sys
from collections.abc import Callable

# Both sides share the memory of an accelerator.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import captum
import jax
import numpy as np
import torch
from absl import app, flags, logging
from captum import attr
from rich.console import Console
from rich.table import Table
from timing import record, seconds
from torch_models import drawn_variables, from_flax
from torch_training import DEVICE, check_device, tune, wait

from introspect_jax.explain import (
    IntegratedGradients,
    SmoothGrad,
    class_similarity,
    explain_fn,
)
from introspect_jax.models import build, make_logits_fn

FLAGS = flags.FLAGS
flags.DEFINE_list(
    "models", ["resnet20:10:16", "resnet18:100:4"], "Networks, name:classes:batch."
)
flags.DEFINE_integer("points", 50, "Steps of integrated gradients, noisy samples.")
flags.DEFINE_integer("repeats", 3, "Timed turns; fast explanations get more.")
flags.DEFINE_string("json", None, "Where to write the rows.")

TOLERANCE = 1e-4
SIGMA = 0.1
# Name -> name of the function of both sides.
EXPLANATIONS = {
    "gradient": "gradient",
    "all-class gradient": "all_classes",
    "integrated gradients": "integrated_gradients",
    "smoothgrad": "smoothgrad",
    "similarity row": "similarity",
}
# Turns go on, up to MOST_REPEATS, until they took this many seconds.
LONG_ENOUGH, MOST_REPEATS = 2.0, 15


@dataclasses.dataclass
class Problem:
    """What is explained, `images [batch, h, w, c]` of float32 or float64.

    `noise [batch, samples, h, w, c]` takes the place of what SmoothGrad draws.
    """

    name: str
    classes: int
    variables: dict
    images: np.ndarray
    labels: np.ndarray
    noise: np.ndarray | None = None


class Ours:
    """This package's explanations of a problem, each compiled when asked for.

    Attributes:
      at_once: points of an image that go through the network at once, None for all.
    """

    def __init__(self, problem: Problem, at_once: int | None = None):
        self.problem, self.at_once = problem, at_once
        model = build(problem.name, problem.classes)
        # `build` knows no float64, which is of no use but here.
        self.model = model.clone(
            backbone=model.backbone.clone(dtype=problem.images.dtype)
        )

    def compile(self, name: str) -> Callable:
        """A function without arguments that waits for its result."""
        function, problem = getattr(self, name), self.problem
        arguments = (problem.variables, problem.images, problem.labels, problem.noise)
        arguments = jax.device_put(arguments)

        def run(variables, images, labels, noise):
            logits_fn = make_logits_fn(self.model, variables)
            more = () if name != "smoothgrad" else (noise,)
            return function(logits_fn, images, labels, *more)

        program = jax.jit(run).lower(*arguments).compile()
        return lambda: jax.block_until_ready(program(*arguments))

    def gradient(self, logits_fn, images, labels):
        return explain_fn(logits_fn, images, labels)

    def all_classes(self, logits_fn, images, labels):
        return explain_fn(logits_fn, images, "all")

    def integrated_gradients(self, logits_fn, images, labels):
        return explain_fn(
            logits_fn,
            images,
            labels,
            IntegratedGradients(num_steps=FLAGS.points),
            chunk_size=self.at_once,
        )

    def smoothgrad(self, logits_fn, images, labels, noise):
        if noise is None:
            explanation = SmoothGrad(num_samples=FLAGS.points, sigma=SIGMA)
        else:
            explanation = SmoothGrad(noise=noise)
        return explain_fn(
            logits_fn,
            images,
            labels,
            explanation,
            key=jax.random.key(0),
            chunk_size=self.at_once,
        )

    def similarity(self, logits_fn, images, labels):
        return class_similarity(logits_fn, images, labels)


class Captum:
    """captum's explanations of a problem, in one memory format.

    Attributes:
      at_once: points of an image that go through the network at once.
    """

    def __init__(self, problem: Problem, memory_format: str):
        form = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
        form = form[memory_format]
        images = torch.from_numpy(problem.images).to(DEVICE).permute(0, 3, 1, 2)
        self.images = images.contiguous(memory_format=form).requires_grad_()
        net = from_flax(problem.name, problem.variables)
        self.net = net.to(DEVICE, images.dtype).to(memory_format=form)
        self.labels = torch.from_numpy(problem.labels).to(DEVICE)
        self.classes, self.noise = problem.classes, problem.noise
        self.memory_format, self.at_once = memory_format, FLAGS.points

    def gradient(self, target=None):
        target = self.labels if target is None else target
        return attr.Saliency(self.net).attribute(self.images, target=target, abs=False)

    def all_classes(self):
        return torch.stack([self.gradient(k) for k in range(self.classes)], dim=1)

    def integrated_gradients(self):
        return attr.IntegratedGradients(self.net).attribute(
            self.images,
            target=self.labels,
            n_steps=FLAGS.points,
            internal_batch_size=self.at_once * len(self.images),
        )

    def smoothgrad(self):
        if self.noise is not None:  # captum takes none: the same formula by hand
            noise = torch.from_numpy(self.noise).to(DEVICE).permute(0, 1, 4, 2, 3)
            noisy = (self.images[:, None] + noise).flatten(0, 1).detach()
            labels = self.labels.repeat_interleave(noise.shape[1])
            score = self.net(noisy.requires_grad_()).gather(1, labels[:, None]).sum()
            return torch.autograd.grad(score, noisy)[0].view(noise.shape).mean(1)
        return attr.NoiseTunnel(attr.Saliency(self.net)).attribute(
            self.images,
            nt_type="smoothgrad",
            nt_samples=FLAGS.points,
            nt_samples_batch_size=self.at_once,
            stdevs=SIGMA,
            target=self.labels,
            abs=False,
        )

    def similarity(self):
        maps = self.all_classes()
        own = maps[torch.arange(len(maps), device=DEVICE), self.labels]
        inner = torch.einsum("bkchw,bchw->bk", maps, own)
        return inner / inner.gather(1, self.labels[:, None])


def make_problem(name: str, classes: int, batch: int) -> Problem:
    """Random weights and images."""
    generator = np.random.RandomState(1)
    variables = drawn_variables(name, classes, generator)
    images = generator.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    return Problem(
        name, classes, variables, images, generator.randint(classes, size=batch)
    )


def difference(ours, theirs) -> float:
    """The largest, relative to the largest magnitude."""
    theirs = theirs.detach().cpu().numpy()
    if theirs.ndim > 2:
        theirs = np.moveaxis(theirs, -3, -1)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def compare(problem: Problem) -> dict[str, float]:
    """The differences of all explanations, on the first image and in float64.

    Not in float32: among the millions of activations behind one explanation a few are
    zero up to rounding. Whichever side of its kink a ReLU then takes, the gradient of
    the example jumps, by a percent of its largest value: between the two sides as much
    as between either and the truth.

    Raises:
      SystemExit: one is above `TOLERANCE`, so that there is nothing to time.
    """
    shape = (1, FLAGS.points, *problem.images.shape[1:])
    exact = Problem(
        problem.name,
        problem.classes,
        jax.tree.map(lambda leaf: leaf.astype(np.float64), problem.variables),
        problem.images[:1].astype(np.float64),
        problem.labels[:1],
        np.random.RandomState(2).normal(0, SIGMA, shape),
    )
    theirs, differences = Captum(exact, "nchw"), {}
    with jax.enable_x64(True):
        ours = Ours(exact)
        for explanation, name in EXPLANATIONS.items():
            apart = difference(ours.compile(name)(), getattr(theirs, name)())
            if not apart <= TOLERANCE:
                raise SystemExit(
                    f"{problem.name}, {explanation}: the sides differ by {apart:.1e} "
                    f"of the largest value, more than {TOLERANCE:.0e}"
                )
            differences[explanation] = apart
    return differences


def waited(function: Callable) -> float:
    """Seconds of a call of PyTorch, until its device has done it."""
    return seconds(lambda: (function(), wait()))


def fastest(problem: Problem) -> tuple[Captum, Captum, Ours]:
    """captum's side set for single gradients, both sides set for many points an image.

    All classes are single gradients, one after the other; SmoothGrad puts the same work
    through the network as integrated gradients do.
    """
    sides = [Captum(problem, "nchw"), Captum(problem, "nhwc")]
    single = min(
        sides,
        key=lambda side: min(waited(side.gradient) for _ in range(MOST_REPEATS)),
    )
    parts = [-(-FLAGS.points // n) for n in (1, 2, 5, 10)]
    captum_seconds = {}
    for at_once in parts:
        for side in sides:
            side.at_once = at_once
            captum_seconds[side, at_once] = waited(side.integrated_gradients)
        # Later trials use the faster format only.
        sides = [min(sides, key=lambda side: captum_seconds[side, at_once])]
    many, at_once = min(captum_seconds, key=captum_seconds.get)
    many.at_once = at_once
    jax_seconds = {}
    for at_once in parts:
        run = Ours(problem, at_once).compile("integrated_gradients")
        jax_seconds[at_once] = min(seconds(run), seconds(run))
    return single, many, Ours(problem, min(jax_seconds, key=jax_seconds.get))


def measure(name: str, classes: int, batch: int) -> list[dict]:
    problem = make_problem(name, classes, batch)
    differences = compare(problem)
    single, many, ours = fastest(problem)
    rows = []
    for explanation, function in EXPLANATIONS.items():
        sampled = function in ("integrated_gradients", "smoothgrad")
        side = many if sampled else single
        jax_run, captum_run = ours.compile(function), getattr(side, function)
        jax_run()  # warm-up; captum's was the trial
        pairs = []
        while len(pairs) < FLAGS.repeats or (
            sum(map(sum, pairs)) < LONG_ENOUGH and len(pairs) < MOST_REPEATS
        ):
            pairs.append((seconds(jax_run), waited(captum_run)))
        taken, other = (statistics.median(side) for side in zip(*pairs, strict=True))
        row_name = f"{explanation} {FLAGS.points}" if sampled else explanation
        rows.append(
            {
                "explanation": row_name,
                "model": name,
                "classes": classes,
                "batch": batch,
                "seconds_here": taken,
                "seconds_there": other,
                "ratio": other / taken,
                "largest_difference": differences[explanation],
                "repeats": len(pairs),
                "memory_format_there": side.memory_format,
                "points_at_once_there": side.at_once if sampled else None,
                "points_at_once_here": ours.at_once if sampled else None,
            }
        )
    return rows


def show(rows: list[dict]) -> None:
    table = Table(title="captum's time over ours")
    for column in ("K", "batch", "explanation", "ratio", "differ"):
        left = column == "explanation"
        table.add_column(column, justify="left" if left else "right", no_wrap=True)
    for row in rows:
        if row["explanation"] == "gradient":
            table.add_section()
            table.add_row("", "", f"[bold]{row['model']}[/bold]")
        table.add_row(
            str(row["classes"]),
            str(row["batch"]),
            row["explanation"],
            f"{row['ratio']:.2f}x",
            f"{row['largest_difference']:.0e}",
        )
    Console().print(table)


def main(_):
    logging.set_verbosity(logging.WARNING)
    check_device()
    tune()
    torch.set_num_threads(os.cpu_count())
    rows = []
    for model in FLAGS.models:
        name, classes, batch = model.split(":")
        rows += measure(name, int(classes), int(batch))
    show(rows)
    record(FLAGS.json, rows, torch=torch.__version__, captum=captum.__version__)


if __name__ == "__main__":
    app.run(main)
