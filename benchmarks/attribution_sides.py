"""The two sides of `attribution_speed.py`, each made in a process of its own."""

import dataclasses
from collections.abc import Callable

import captum
import jax
import numpy as np
import torch
from captum import attr
from jax.sharding import PartitionSpec
from sides import waited
from timing import seconds
from torch_models import drawn_variables, from_flax
from torch_training import DEVICE, check_device, tune, wait

from introspect_jax import cpu
from introspect_jax.explain import (
    IntegratedGradients,
    SmoothGrad,
    class_similarity,
    explain_fn,
)
from introspect_jax.machine import usable_cpus
from introspect_jax.models import build, make_logits_fn
from introspect_jax.train.devices import AXIS, make_mesh, replicated, sharing, split

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
SAMPLED = ("integrated_gradients", "smoothgrad")
# Of a trial, the fastest counts.
TRIALS = 5


@dataclasses.dataclass
class Problem:
    """What is explained, `images [batch, h, w, c]` of float32 or float64.

    `points` are steps of integrated gradients and noisy samples; `noise [batch, points,
    h, w, c]` takes the place of what SmoothGrad draws.
    """

    name: str
    classes: int
    variables: dict
    images: np.ndarray
    labels: np.ndarray
    points: int
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
        arguments = (problem.images, problem.labels, problem.noise)
        mesh = make_mesh({}, sharing(len(problem.images)))
        arguments = (
            jax.device_put(problem.variables, replicated(mesh)),
            *jax.device_put(arguments, split(mesh)),
        )

        def run(variables, images, labels, noise):
            logits_fn = make_logits_fn(self.model, variables)
            more = () if name != "smoothgrad" else (noise,)
            return function(logits_fn, images, labels, *more)

        # Left to the compiler, each device would explain all classes of all images.
        rows = PartitionSpec(AXIS)
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(PartitionSpec(), rows, rows, rows),
            out_specs=rows,
            check_vma=False,
        )
        program = cpu.jit(run).lower(*arguments).compile()
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
            IntegratedGradients(num_steps=self.problem.points),
            chunk_size=self.at_once,
        )

    def smoothgrad(self, logits_fn, images, labels, noise):
        if noise is None:
            explanation = SmoothGrad(num_samples=self.problem.points, sigma=SIGMA)
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
        self.memory_format, self.at_once = memory_format, problem.points
        self.points = problem.points

    def gradient(self, target=None):
        target = self.labels if target is None else target
        return attr.Saliency(self.net).attribute(self.images, target=target, abs=False)

    def all_classes(self):
        return torch.stack([self.gradient(k) for k in range(self.classes)], dim=1)

    def integrated_gradients(self):
        return attr.IntegratedGradients(self.net).attribute(
            self.images,
            target=self.labels,
            n_steps=self.points,
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
            nt_samples=self.points,
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


def make_problem(name: str, classes: int, batch: int, points: int) -> Problem:
    """Random weights and images."""
    generator = np.random.RandomState(1)
    variables = drawn_variables(name, classes, generator)
    images = generator.normal(size=(batch, 32, 32, 3)).astype(np.float32)
    labels = generator.randint(classes, size=batch)
    return Problem(name, classes, variables, images, labels, points)


def difference(ours, theirs) -> float:
    """The largest, relative to the largest magnitude."""
    theirs = theirs.detach().cpu().numpy()
    if theirs.ndim > 2:
        theirs = np.moveaxis(theirs, -3, -1)
    return float(np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max())


def compare(model: tuple[str, int, int, int]) -> tuple[dict[str, float], str, str]:
    """The differences of all explanations, on the first image and in float64.

    Not in float32: among the millions of activations behind one explanation a few are
    zero up to rounding. Whichever side of its kink a ReLU then takes, the gradient of
    the example jumps, by a percent of its largest value: between the two sides as much
    as between either and the truth.

    Args:
      model: Arguments of `make_problem`.

    Returns:
      The differences, and the versions of torch and captum.

    Raises:
      SystemExit: one is above `TOLERANCE`, so that there is nothing to time.
    """
    check_device()
    problem = make_problem(*model)
    shape = (1, problem.points, *problem.images.shape[1:])
    exact = Problem(
        problem.name,
        problem.classes,
        jax.tree.map(lambda leaf: leaf.astype(np.float64), problem.variables),
        problem.images[:1].astype(np.float64),
        problem.labels[:1],
        problem.points,
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
    return differences, torch.__version__, captum.__version__


def make_ours(model: tuple[str, int, int, int], fast: bool, explanation: str):
    """This package's explanation.

    Args:
      model: Arguments of `make_problem`.
      fast: Whether with the settings that `launch/` chooses on CPUs.
      explanation: Of `EXPLANATIONS`. What takes many points an image is tried with
        several numbers of them at once.
    """
    if fast:
        cpu.switch_on()
    problem, name = make_problem(*model), EXPLANATIONS[explanation]
    if name not in SAMPLED:
        return Ours(problem).compile(name), lambda: None
    tried = {}
    for at_once in _parts(problem.points):
        run = Ours(problem, at_once).compile(name)
        run()
        tried[run] = min(seconds(run) for _ in range(2))
    return min(tried, key=tried.__getitem__), lambda: None


def make_theirs(model: tuple[str, int, int, int], explanation: str):
    """captum's explanation, in the memory format and with the number of points at once
    that were fastest in a trial."""
    tune()
    torch.set_num_threads(len(usable_cpus()))
    problem, name = make_problem(*model), EXPLANATIONS[explanation]
    tried = {}
    for memory_format in ("nchw", "nhwc"):
        for at_once in _parts(problem.points) if name in SAMPLED else [problem.points]:
            side = Captum(problem, memory_format)
            side.at_once = at_once
            # All classes are single gradients, one after the other.
            trial = getattr(side, name) if name in SAMPLED else side.gradient
            times = 2 if name in SAMPLED else TRIALS
            tried[getattr(side, name)] = min(waited(trial, wait) for _ in range(times))
    return min(tried, key=tried.__getitem__), wait


def _parts(points: int) -> list[int]:
    """All points at once, a half, a fifth, a tenth."""
    return [-(-points // n) for n in (1, 2, 5, 10)]
