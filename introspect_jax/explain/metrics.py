"""Are explanations faithful, specific and stable? Scores per example, on the device.

Each metric is a pure function that returns one number an example, `[batch]`;
`mean_interval` sums them up with a bootstrap interval.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.explain.agreement import spearman
from introspect_jax.explain.attribution import LogitsFn, explain_fn
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.targets import check_range

PyTree = Any


def mean_interval(
    values: Any, *, level: float = 0.95, resamples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean of per-example scores with its percentile bootstrap interval (Efron 1979).

    Args:
      values: `[examples]`; those that are not a number (a correlation with a constant)
        are left out and do not count.
      level: of the interval, in (0, 1).
      resamples: of the examples, with replacement.
      seed: of the resamples.

    Returns:
      `mean`, `low`, `high` and `count`; not a number where nothing is left.
    """
    kept = np.asarray(values, np.float64).ravel()
    kept = kept[~np.isnan(kept)]
    if not len(kept):
        return {"mean": np.nan, "low": np.nan, "high": np.nan, "count": 0}
    generator = np.random.RandomState(seed)
    means = [
        kept[generator.randint(len(kept), size=len(kept))].mean()
        for _ in range(resamples)
    ]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return {
        "mean": float(kept.mean()),
        "low": float(low),
        "high": float(high),
        "count": len(kept),
    }


def deletion(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    labels: Any,
    maps: jax.Array,
    *,
    num_steps: int = 16,
    channel_axis: int = -1,
    baseline: Any = "zero",
) -> jax.Array:
    """Area under the probability of the label as the most important pixels go.

    Petsiuk et al. 2018 (RISE). Pixels are ranked by the explanation, summed over
    channels, and set to the baseline in `num_steps` equal parts; the area is the
    trapezoid's over `[0, 1]`. Low is faithful.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`.
      inputs: images `[batch, h, w, c]` (channels where `channel_axis` says).
      labels: int or ints `[batch]`.
      maps: explanations, shaped like the inputs or with one channel.
      num_steps: parts; `num_steps + 1` forward passes are folded into one batch.
      channel_axis: of the inputs and the maps.
      baseline: what pixels are set to, see `baselines.make_baseline`.

    Returns:
      `[batch]`, in [0, 1].
    """
    gone = make_baseline(baseline, inputs, None, jnp.arange(len(inputs)))
    return _area(logits_fn, inputs, gone, labels, maps, num_steps, channel_axis)


def insertion(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    labels: Any,
    maps: jax.Array,
    *,
    num_steps: int = 16,
    channel_axis: int = -1,
    baseline: Any = "blur",
) -> jax.Array:
    """Area under the probability of the label as the most important pixels come.

    As `deletion`, but from the baseline (by default the blurred image) to the image.
    High is faithful.
    """
    start = make_baseline(baseline, inputs, None, jnp.arange(len(inputs)))
    return _area(logits_fn, start, inputs, labels, maps, num_steps, channel_axis)


def _area(logits_fn, start, end, labels, maps, num_steps, channel_axis) -> jax.Array:
    batch = len(start)
    importance = maps.sum(channel_axis, keepdims=True).reshape(batch, -1)
    order = jnp.argsort(jnp.argsort(-importance, axis=-1), axis=-1)
    shape = list(start.shape)
    shape[channel_axis] = 1
    pixels = order.shape[1]
    edges = jnp.round(jnp.arange(num_steps + 1) / num_steps * pixels)
    changed = order[None] < edges[:, None, None]
    mixed = jnp.where(changed.reshape(-1, *shape), end[None], start[None])
    logits = logits_fn(mixed.reshape(-1, *start.shape[1:]))
    probs = jax.nn.softmax(logits.astype(jnp.float32)).reshape(num_steps + 1, batch, -1)
    labels = _labels(labels, batch, probs.shape[-1])
    curve = probs[:, jnp.arange(batch), labels]
    return (curve.sum(0) - (curve[0] + curve[-1]) / 2) / num_steps


def completeness_error(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    target: Any,
    maps: jax.Array,
    *,
    baseline: Any = "zero",
) -> jax.Array:
    """`sum(A) - (f(x) - f(b))`, captum's convergence delta, `[batch]`.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`.
      inputs: `[batch, ...]`.
      target: int, ints `[batch]`, or a function of logits to scores `[batch]`.
      maps: explanations `[batch, ...]` of the target.
      baseline: that of the explanations, see `baselines.make_baseline`.
    """
    start = make_baseline(baseline, inputs, None, jnp.arange(len(inputs)))

    def score(x):
        logits = logits_fn(x)
        if callable(target):
            return target(logits)
        labels = _labels(target, len(x), logits.shape[1])
        return logits[jnp.arange(len(x)), labels]

    total = maps.reshape(len(maps), -1).sum(-1)
    return total - (score(inputs) - score(start))


def random_logit_similarity(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    labels: Any,
    class_key: jax.Array,
    **options: Any,
) -> jax.Array:
    """Cosine between the explanation of the label and of a random other class.

    Sixt et al. 2020. Low means that explanations tell classes apart. Quantus compares
    by structural similarity, which is of another scale.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`.
      inputs: `[batch, ...]`.
      labels: int or ints `[batch]`.
      class_key: random key that picks the other class.
      **options: of `explain_fn`.

    Returns:
      `[batch]`, in [-1, 1]; not a number where an explanation vanishes.
    """
    classes = jax.eval_shape(logits_fn, inputs).shape[1]
    labels = _labels(labels, len(inputs), classes)
    shift = jax.random.randint(class_key, labels.shape, 1, classes)
    both = jnp.stack([labels, (labels + shift) % classes], axis=1)
    maps = explain_fn(logits_fn, inputs, both, **options)
    maps = maps.reshape(*maps.shape[:2], -1)
    norms = jnp.linalg.norm(maps, axis=-1).prod(-1)
    return jnp.einsum("bp,bp->b", maps[:, 0], maps[:, 1]) / norms


def parameter_randomisation(
    apply_fn: Callable[[PyTree, jax.Array], jax.Array],
    params: PyTree,
    random_params: PyTree,
    layers: Sequence[str],
    inputs: jax.Array,
    target: Any,
    **options: Any,
) -> jax.Array:
    """Rank correlation of explanations as layers lose what they learnt.

    Adebayo et al. 2018, the cascade: layers are replaced by untrained ones one after
    the other, from the output down, and stay so. An explanation that does not change
    does not depend on what was learnt.

    Args:
      apply_fn: `(params, inputs) -> logits [batch, classes]`.
      params: trained.
      random_params: another initialisation, of the same structure.
      layers: prefixes of parameter paths ("head", "backbone/stage2"), in the order in
        which they are replaced.
      inputs: `[batch, ...]`.
      target: see `explain_fn`, one an example.
      **options: of `explain_fn`.

    Returns:
      `[layers, batch]`: Spearman correlation of the absolute explanations with those of
      the trained network.

    Raises:
      ValueError: a prefix that no parameter has.
    """

    def explain(current: PyTree) -> jax.Array:
        maps = explain_fn(lambda x: apply_fn(current, x), inputs, target, **options)
        return jnp.abs(maps).reshape(len(maps), -1)

    trained = explain(params)
    cascade = _cascade(params, random_params, layers)
    return jnp.stack([spearman(trained, explain(step)) for step in cascade])


def _cascade(
    params: PyTree, random_params: PyTree, layers: Sequence[str]
) -> Iterator[PyTree]:
    names = [
        "/".join(
            str(getattr(part, "key", getattr(part, "name", part))) for part in path
        )
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]
    leaves, tree = jax.tree.flatten(params)
    fresh = jax.tree.leaves(random_params)
    for layer in layers:
        hit = [i for i, name in enumerate(names) if name.startswith(layer)]
        if not hit:
            raise ValueError(f"no parameter path starts with {layer!r}: {names}")
        for i in hit:
            leaves[i] = fresh[i]
        yield jax.tree.unflatten(tree, list(leaves))


def max_sensitivity(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    target: Any,
    noise_key: jax.Array | None = None,
    *,
    radius: float = 0.02,
    num_samples: int = 10,
    noise: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """`max_i |A(x) - A(x + e_i)| / |A(x)|` (Yeh et al. 2019).

    Args:
      logits_fn: inputs -> logits `[batch, classes]`.
      inputs: `[batch, ...]`.
      target: see `explain_fn`, one an example.
      noise_key: random key of `e_i`, uniform in `[-radius, radius]`.
      radius: in units of the inputs.
      num_samples: how many `e_i`.
      noise: `[batch, samples, ...]`, in place of the drawn `e_i`.
      **options: of `explain_fn`.

    Returns:
      `[batch]`, 0 or more.

    Raises:
      ValueError: neither `noise_key` nor `noise`.
    """
    if noise is None:
        if noise_key is None:
            raise ValueError("max_sensitivity needs noise_key= or noise=")
        shape = (len(inputs), num_samples, *inputs.shape[1:])
        noise = jax.random.uniform(noise_key, shape, inputs.dtype, -radius, radius)

    def explain(x):
        maps = explain_fn(logits_fn, x, target, **options)
        return maps.reshape(len(maps), -1)

    here = explain(inputs)
    moved = jax.vmap(lambda e: jnp.linalg.norm(explain(inputs + e) - here, axis=-1))(
        jnp.moveaxis(noise, 1, 0)
    )
    return moved.max(0) / jnp.linalg.norm(here, axis=-1)


def _labels(labels: Any, batch: int, classes: int) -> jax.Array:
    labels = jnp.broadcast_to(jnp.asarray(labels), (batch,))
    check_range(labels, classes)
    return labels
