"""Benchmarks of the similarities of many classes: all ways compute the same."""

import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

sys.path.append(str(ROOT / "benchmarks"))

import thousand_jax
from sides import Side
from thousand_sides import Step

CLASSES, SIDE = 7, 6


KERNELS_AND_IMAGES = [(3 * SIDE**2, 20), (20, CLASSES), (2, SIDE, SIDE, 3)]


@pytest.fixture(scope="module")
def problem():
    """Kernels of two layers, and two images."""
    generator = np.random.RandomState(0)
    return [
        generator.normal(size=shape).astype(np.float32) for shape in KERNELS_AND_IMAGES
    ]


@pytest.fixture(scope="module")
def logits_fn(problem):
    first, last, _ = problem
    return lambda x: jax.nn.relu6(x.reshape(len(x), -1) @ first) @ last


@pytest.fixture(scope="module")
def labels(logits_fn, problem):
    return logits_fn(problem[-1]).argmax(-1)


@pytest.fixture(scope="module")
def expected(logits_fn, problem, labels):
    """Inner products `[batch, classes]`."""
    return thousand_jax.by_transpose(logits_fn, problem[-1], labels)


def test_classes_in_chunks_give_what_the_transpose_does(
    problem, logits_fn, labels, expected
):
    images = problem[-1]
    own = thousand_jax.explain_fn(logits_fn, images, labels)
    parts = thousand_jax.chunks(CLASSES, 3)
    np.testing.assert_array_equal(parts, [[0, 1, 2], [3, 4, 5], [6, -1, -1]])
    found = [thousand_jax.of_classes(logits_fn, images, own, part) for part in parts]
    products = jnp.concatenate(found, axis=1)
    chex.assert_trees_all_close(products[:, :CLASSES], expected, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(products[:, CLASSES:], 0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch, in captum
def test_pytorch_and_captum_give_what_the_transpose_does(problem, labels, expected):
    torch = pytest.importorskip("torch")
    for package in ("captum", "efficientnet_lite_pytorch"):
        pytest.importorskip(package)
    from thousand_torch import captum_calls, forward_mode

    nn = torch.nn
    first, last, images = problem
    # PyTorch's layout of images, and its order of their pixels in the first layer.
    first = first.reshape(SIDE, SIDE, 3, 20).transpose(3, 2, 0, 1).reshape(20, -1)
    hidden = nn.Linear(first.shape[1], 20, bias=False)
    outputs = nn.Linear(20, CLASSES, bias=False)
    net = nn.Sequential(nn.Flatten(), hidden, nn.ReLU6(), outputs)
    for layer, kernel in ((hidden, first), (outputs, last.T)):
        layer.weight.data = torch.from_numpy(kernel.copy())
    net.requires_grad_(False)
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    labels = torch.from_numpy(np.array(labels)).long()
    calls = captum_calls(net, images.clone().requires_grad_(), labels, CLASSES)
    for products in (calls, forward_mode(net, images, labels)):
        chex.assert_trees_all_close(
            products.numpy(), np.asarray(expected), rtol=1e-5, atol=1e-4
        )


MODULE = """
import itertools

import numpy as np
from thousand_sides import Step

def make(start, name):
    calls = itertools.count(start + 1)
    step = Step(lambda: next(calls), np.asarray, {"flops": 5.0})
    return step, step.wait
"""


def test_a_side_takes_the_steps_of_a_turn_and_returns_their_result(
    tmp_path, monkeypatch
):
    (tmp_path / "made_for_a_side.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    from made_for_a_side import make

    side = Side(make, 10)
    try:
        assert side.make("long", steps=2) == {"seconds": None, "steps": 2}
        assert side.turn("long") > 0
        assert side.value("long") == (
            12,
            {"flops": 5.0},
        )  # nothing was called but the turn
        assert side.make("short")["steps"] > 2
        assert side.peak_bytes() >= 0
    finally:
        side.close()


def test_a_step_keeps_the_result_of_its_last_call():
    values = iter((1, 2))
    step = Step(lambda: next(values), str)
    step()
    step()
    assert step.wait() == ("2", {})
