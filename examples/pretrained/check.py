"""Compares the converted network with the original in PyTorch, on photographs.

    python examples/pretrained/check.py

It prints the top classes, and the largest differences of the logits and of the
gradients of the top classes. Gradients are compared in double precision too: where an
input of a ReLU6 is within rounding of 0 or 6, it passes a gradient or none, so that
gradients in single precision differ more than the logits, those of PyTorch from its own
in double precision as well. The exit status is 1 if logits in single precision or
gradients in double precision differ by more than 1e-4.
"""

import dataclasses
import sys

import jax
import numpy as np
import torch
from convert import original_state
from efficientnet_lite import weights_file
from efficientnet_lite_pytorch import EfficientNet
from photographs import PHOTOGRAPHS, read

from introspect_jax import cpu, explain_fn, pretrained
from introspect_jax.trained import Trained

TOLERANCE = 1e-4


def results(net: Trained, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logits `[n, classes]` and gradients `[n, h, w, 3]` of the top classes.

    Args:
      net: The converted network.
      inputs: `[n, h, w, 3]`, float32, or float64 where JAX has it enabled.
    """
    cast = jax.tree.map(lambda leaf: leaf.astype(inputs.dtype), net.variables)
    net = dataclasses.replace(net, variables=cast)

    @cpu.jit
    def compute(inputs):
        logits = net.logits_fn(inputs)
        return logits, explain_fn(net.logits_fn, inputs, logits.argmax(-1))

    logits, gradients = compute(inputs)
    return np.asarray(logits), np.asarray(gradients)


def original_results(inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same of the original network."""
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(original_state())
    at = torch.from_numpy(inputs).permute(0, 3, 1, 2).requires_grad_()
    logits = network.eval().to(at.dtype)(at)
    (gradients,) = torch.autograd.grad(logits.max(-1).values.sum(), at)
    return logits.detach().numpy(), gradients.permute(0, 2, 3, 1).numpy()


def difference(values: np.ndarray, expected: np.ndarray, name: str) -> float:
    """Prints and returns the largest difference."""
    largest = float(np.abs(values - expected).max())
    print(f"{name}: largest difference {largest:.1e}, of {np.abs(expected).max():.2f}")
    return largest


def main() -> None:
    cpu.switch_on(devices=False)
    net = pretrained.load(weights_file())
    pixels = read()
    # As the authors do, and exact in both precisions.
    inputs = (pixels.astype("float32") - 127) / 128
    logits, gradients = results(net, np.asarray(net.preprocess(pixels)))
    expected, expected_gradients = original_results(inputs)
    for photograph, row in zip(PHOTOGRAPHS, logits, strict=True):
        probs = np.asarray(jax.nn.softmax(row))
        top = ", ".join(
            f"{net.class_names[k]} {probs[k]:.1%}" for k in row.argsort()[:-4:-1]
        )
        print(f"{photograph.name}: {top}")
    errors = [difference(logits, expected, "logits")]
    difference(gradients, expected_gradients, "gradients of the top classes")
    inputs = inputs.astype("float64")
    with jax.enable_x64(True):
        gradients = results(net, inputs)[1]
    exact = original_results(inputs)[1]
    difference(expected_gradients, exact, "PyTorch's in single and double precision")
    errors.append(difference(gradients, exact, "gradients in double precision"))
    if not all(error <= TOLERANCE for error in errors):
        sys.exit(f"the networks differ by more than {TOLERANCE}")


if __name__ == "__main__":
    main()
