"""Metrics of the explanations of a network."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from introspect_jax import cpu
from introspect_jax.binding import bind
from introspect_jax.explain import agreement, class_similarity, explain_fn, metrics
from introspect_jax.explain.stability import parameter_paths
from introspect_jax.models import last_layer, make_logits_fn, offers
from introspect_jax.report.explained import BASELINES, in_batches
from introspect_jax.trained import Trained


def measure(
    net: Trained,
    config: ConfigDict,
    pixels: np.ndarray,
    labels: np.ndarray,
    others: np.ndarray,
) -> list[dict[str, Any]]:
    """Metrics of the explanations of the labels: name, mean, 95 % interval, count.

    Args:
      net: The network.
      config: Config of `binding.for_pictures`.
      pixels: `[images, h, w, c]`, as read.
      labels: `[images]`.
      others: Pixels of the images that expected gradients take for baselines.
    """
    baselines = net.preprocess(others[:BASELINES])
    untrained = net.untrained(jax.random.key(2**31 - 1))
    layers = _layers(net)

    @cpu.jit
    def scores(variables, untrained, x, y, index):
        return _scores(
            functools.partial(bind, config, net.model, images=baselines),
            net.model,
            layers,
            variables,
            untrained,
            x,
            y,
            index,
        )

    columns, similarities, logits = in_batches(
        net,
        lambda variables, *given: scores(variables, untrained, *given),
        pixels,
        labels,
        np.arange(len(pixels)),
    )
    agreed = agreement.rank_agreement(similarities, logits, labels)
    columns["rank agreement with the logits, examples"] = agreed["example"]
    columns["rank agreement with the logits, classes"] = agreed["class"]
    return [
        {"metric": name} | metrics.mean_interval(column)
        for name, column in sorted(columns.items())
    ]


def _layers(net: Trained) -> dict[str, list[str]]:
    """Names and paths of the variables to randomise, one after the other."""
    layers = {"network": list(net.variables)}
    if not offers(net.model, "last_layer"):
        return layers
    arrays = last_layer(net.model, net.variables)
    leaves = jax.tree.leaves(net.variables)
    last = [
        path
        for path, leaf in zip(parameter_paths(net.variables), leaves, strict=True)
        if any(leaf is array for array in arrays)
    ]
    # A network may compute what it returns, as one that scales its logits does.
    return ({"last layer": last} if last else {}) | layers


def _scores(bind_to, model, layers, variables, untrained, x, y, index):
    """Name -> scores `[images]` of the explanations of the labels; similarities and
    logits `[images, classes]`."""
    logits_fn = make_logits_fn(model, variables)
    bound = bind_to(variables)
    key = jax.random.key(0)
    execution = bound.options | {"key": key, "index": index}
    # Other draws for each batch of images.
    batch_key = jax.random.fold_in(key, index[0])
    maps = explain_fn(logits_fn, x, y, bound.explanation, **execution)
    large = maps
    if maps.shape[1:3] != x.shape[1:3]:
        # Coarser maps, such as Grad-CAM's, are enlarged to rank the pixels.
        sized = (len(x), *x.shape[1:3], maps.shape[-1])
        large = jax.image.resize(maps, sized, "nearest")
    values = {
        "deletion": metrics.deletion(logits_fn, x, y, large),
        "insertion": metrics.insertion(logits_fn, x, y, large),
        "random-logit similarity": metrics.random_logit_similarity(
            logits_fn, x, y, bound.explanation, class_key=batch_key, **execution
        ),
        "max-sensitivity": metrics.max_sensitivity(
            logits_fn, x, y, bound.explanation, noise_key=batch_key, **execution
        ),
    }
    baseline = getattr(bound.explanation, "baseline", None)
    if baseline is not None:
        values["completeness error"] = jnp.abs(
            metrics.completeness_error(logits_fn, x, y, maps, baseline=baseline)
        )
    randomised = metrics.parameter_randomisation(
        lambda network, images: make_logits_fn(model, network)(images),
        x,
        y,
        lambda network: bind_to(network).explanation,
        params=variables,
        random_params=untrained,
        layers=list(layers.values()),
        **execution,
    )
    for name, column in zip(layers, randomised, strict=True):
        values[f"randomised {name}, rank correlation"] = column
    similar = class_similarity(
        logits_fn, x, y, bound.explanation, bound.similarity, **execution
    )
    return values, similar, logits_fn(x)
