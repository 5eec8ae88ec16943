"""Compares explanations by a network of another framework with those by linen's.

Where frameworks round differently, gradients differ by more than rounding, because of
inputs of ReLU6 near 0 and 6; see `check.py`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from efficientnet_lite import weights_file
from photographs import read

from introspect_jax import class_similarity, cpu, explain_fn, pretrained


def show_differences(
    title: str, logits_fn: Callable[[jax.Array], jax.Array], channel_axis: int = -1
) -> tuple[float, float]:
    """Explains the photographs by another framework's network and by that of linen.

    Args:
      title: Name of the framework, for what is printed.
      logits_fn: The network with the same weights, images -> logits.
      channel_axis: Of its images, -1 or 1.

    Returns:
      The largest differences of the gradients of the top classes, and of the
      similarities to them, as fractions of the largest values.
    """
    cpu.switch_on(devices=False)
    net = pretrained.load(weights_file())
    inputs = net.preprocess(read())
    labels = cpu.jit(net.logits_fn)(inputs).argmax(-1)
    expected = _explain(net.logits_fn, inputs, labels, -1)
    maps, similarities = _explain(
        logits_fn, jnp.moveaxis(inputs, -1, channel_axis), labels, channel_axis
    )
    values = np.moveaxis(maps, channel_axis, -1), similarities
    errors = tuple(
        float(np.abs(value - reference).max() / np.abs(reference).max())
        for value, reference in zip(values, expected, strict=True)
    )
    gradients, similarity = (f"{error:.1e}" for error in errors)
    print(
        f"{title} and linen, {len(inputs)} photographs, largest relative differences: "
        f"gradients {gradients}, similarities of all classes {similarity}"
    )
    return errors


def _explain(
    logits_fn: Callable[[jax.Array], jax.Array],
    inputs: jax.Array,
    labels: jax.Array,
    channel_axis: int,
) -> tuple[np.ndarray, np.ndarray]:
    options = {"channel_axis": channel_axis}

    @cpu.jit
    def explain(inputs):
        maps = explain_fn(logits_fn, inputs, labels, **options)
        return maps, class_similarity(logits_fn, inputs, labels, **options)

    maps, similarities = explain(inputs)
    return np.asarray(maps), np.asarray(similarities)
