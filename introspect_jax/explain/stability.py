"""Metrics that compare explanations across classes, parameters or perturbed inputs.

Public through `metrics`.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypedDict, Unpack

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Real

from introspect_jax.arrays import is_integer
from introspect_jax.explain.agreement import spearman
from introspect_jax.explain.attribution import explain_fn
from introspect_jax.explain.explanation import Explanation
from introspect_jax.explain.placement import is_sharded
from introspect_jax.explain.similarities import flat
from introspect_jax.explain.targets import Target

PyTree = Any


class Execution(TypedDict, total=False):
    """Keyword arguments of `explain_fn`."""

    key: Array | None
    index: ArrayLike | None
    chunk_size: int | None
    class_chunk_size: int | None
    channel_axis: int | None
    center: bool
    batched: tuple[ArrayLike, ...]


def random_logit_similarity(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: ArrayLike,
    explanation: str | Explanation = "gradient",
    *,
    class_key: Array,
    **execution: Unpack[Execution],
) -> Float[Array, " batch"]:
    """Cosine between the explanation of a class and that of a random other class.

    Sixt et al. 2020. A low value means that explanations distinguish classes. Quantus
    uses structural similarity instead, so its values are not comparable.

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]`.
      inputs: Array `[batch, ...]`.
      target: Class, an int or ints `[batch]`.
      explanation: `Explanation` object or name, see `explain_fn`.
      class_key: Random key that selects the other class.
      **execution: Keyword arguments of `explain_fn`.

    Returns:
      `[batch]`, in [-1, 1]; NaN if an explanation vanishes.

    Raises:
      ValueError: A target that is not an int or ints `[batch]`, or a class out of
        range.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> kernel = jnp.array([[3.0, 4.0], [4.0, 3.0]])
      >>> random_logit_similarity(lambda x: x @ kernel, jnp.ones((1, 2)), 0,
      ...                         class_key=jax.random.key(0))
      Array([0.96], dtype=float32)
    """
    inputs, labels = jnp.asarray(inputs), jnp.asarray(target)
    batch = len(inputs)
    if labels.shape not in ((), (batch,)) or not is_integer(labels):
        raise ValueError(
            f"target must be an int or ints [{batch}], got "
            f"{labels.dtype}{list(labels.shape)}"
        )
    labels = jnp.broadcast_to(labels, (batch,)).astype(jnp.int32)
    outputs = jax.eval_shape(logits_fn, inputs, *execution.get("batched", ()))
    classes = outputs.shape[1]
    shift = jax.random.randint(class_key, labels.shape, 1, classes)
    both = jnp.stack([labels, (labels + shift) % classes], axis=1)
    maps = explain_fn(logits_fn, inputs, both, explanation, **execution)
    maps = flat(maps)
    norms = _norm(maps).prod(-1)
    return jnp.einsum("bp,bp->b", maps[:, 0], maps[:, 1]) / norms


def max_sensitivity(
    logits_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: Target,
    explanation: str | Explanation = "gradient",
    *,
    noise_key: Array | None = None,
    noise: Float[ArrayLike, "batch samples *dims"] | None = None,
    radius: Real[ArrayLike, ""] = 0.02,
    num_samples: int = 10,
    **execution: Unpack[Execution],
) -> Float[Array, " batch"]:
    """Maximum relative change `max_i |A(x) - A(x + e_i)| / |A(x)|` (Yeh et al. 2019).

    Args:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]`.
      inputs: Array `[batch, ...]`.
      target: One target per example, see `explain_fn`.
      explanation: `Explanation` object or name, see `explain_fn`.
      noise_key: Random key of `e_i`, uniform in `[-radius, radius]`.
      noise: Perturbations `[batch, samples, ...]` to use instead of random `e_i`.
      radius: Largest absolute value of the perturbation, in units of the inputs.
      num_samples: Number of perturbations `e_i`.
      **execution: Keyword arguments of `explain_fn`.

    Returns:
      `[batch]`, 0 or more; NaN if the explanation vanishes.

    Raises:
      ValueError: Neither `noise_key` nor `noise`, or noise of the wrong shape.

    Example:
      >>> import jax.numpy as jnp
      >>> f = lambda x: jnp.stack([x[:, 0] ** 2, x[:, 0]], axis=1)
      >>> noise = jnp.array([[[0.1], [-0.5]]])
      >>> max_sensitivity(f, jnp.array([[2.0]]), 0, noise=noise)
      Array([0.25], dtype=float32)
    """
    inputs = jnp.asarray(inputs)
    if noise is None:
        if noise_key is None:
            raise ValueError("max_sensitivity needs noise_key= or noise=")
        shape = (len(inputs), num_samples, *inputs.shape[1:])
        bound = jnp.asarray(radius, inputs.dtype)
        noise = jax.random.uniform(noise_key, shape, inputs.dtype, -bound, bound)
    moves = jnp.asarray(noise, inputs.dtype)
    if (
        moves.ndim != inputs.ndim + 1
        or (len(moves), *moves.shape[2:]) != inputs.shape
        or moves.shape[1] == 0
    ):
        raise ValueError(
            f"noise must be [batch, samples, ...] for inputs {list(inputs.shape)}, got "
            f"{list(moves.shape)}"
        )

    def explain(x: Array) -> Array:
        maps = explain_fn(logits_fn, x, target, explanation, **execution)
        return flat(maps[:, None])[:, 0]

    here = explain(inputs)

    def change(move: Array) -> Array:
        return _norm(explain(inputs + move) - here)

    changes: Array
    if is_sharded(inputs):
        # One at a time: not all operations support `vmap` on explicit meshes.
        changes = jnp.stack([change(moves[:, i]) for i in range(moves.shape[1])])
    else:
        changes = jax.vmap(change, in_axes=1)(moves)
    return changes.max(0) / _norm(here)


def parameter_randomisation(
    apply_fn: Callable[..., Any],
    inputs: Float[ArrayLike, " batch *dims"],
    target: Target,
    explanation: str | Explanation | Callable[[PyTree], Explanation] = "gradient",
    *,
    params: PyTree,
    random_params: PyTree,
    layers: Sequence[str | Sequence[str]],
    **execution: Unpack[Execution],
) -> Float[Array, "layers batch"]:
    """Rank correlation with the original explanations under parameter randomisation.

    Cascading randomisation of Adebayo et al. 2018: layers are re-initialised
    cumulatively in the given order, usually from the output down. A high correlation
    means the explanation depends little on the trained weights.

    Args:
      apply_fn: Function `(params, inputs, *batched) -> logits [batch, classes]`.
      inputs: Array `[batch, ...]`.
      target: One target per example, see `explain_fn`.
      explanation: `Explanation` object or name, see `explain_fn`; or a function from
        parameters to an `Explanation`, for explanations that hold parts of the network
        (`GradCAM`).
      params: Trained parameters.
      random_params: Re-initialised parameters with the same structure.
      layers: Paths of parameters or of the modules that hold them ("head",
        "backbone/stage2"), in the order in which they are re-initialised; a sequence of
        paths is re-initialised in one step.
      **execution: Keyword arguments of `explain_fn`.

    Returns:
      `[layers, batch]`: Spearman correlation between the absolute explanations and
      those of the trained network.

    Raises:
      ValueError: A layer without parameters, or parameters with different structures.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> def apply_fn(params, x):
      ...     return jnp.tanh(x @ params["body"]) @ params["head"]
      >>> def init(seed):
      ...     keys = jax.random.split(jax.random.key(seed))
      ...     return {"body": jax.random.normal(keys[0], (6, 5)),
      ...             "head": jax.random.normal(keys[1], (5, 3))}
      >>> x = jax.random.normal(jax.random.key(2), (4, 6))
      >>> parameter_randomisation(apply_fn, x, 0, params=init(0),
      ...                         random_params=init(1), layers=["head", "body"]).shape
      (2, 4)
    """

    def explain(current: PyTree) -> Array:
        of = explanation(current) if callable(explanation) else explanation
        maps = explain_fn(
            lambda x, *batched: apply_fn(current, x, *batched),
            inputs,
            target,
            of,
            **execution,
        )
        return jnp.abs(flat(maps[:, None])[:, 0])

    trained = explain(params)
    cascade = _cascade(params, random_params, layers)
    return jnp.stack([spearman(trained, explain(step)) for step in cascade])


def _norm(rows: Array) -> Array:
    norms: Array = jnp.linalg.norm(rows, axis=-1)
    return norms


def parameter_paths(params: PyTree) -> list[str]:
    """Paths of all parameters, such as "backbone/stage2/kernel"."""
    return [
        "/".join(
            str(getattr(part, "key", getattr(part, "name", part))) for part in path
        )
        for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ]


def _cascade(
    params: PyTree, random_params: PyTree, layers: Sequence[str | Sequence[str]]
) -> Iterator[PyTree]:
    names = parameter_paths(params)
    leaves, tree = jax.tree.flatten(params)
    if str(jax.tree.structure(random_params)) != str(tree):
        raise ValueError(
            "random_params must have the structure of params, got "
            f"{jax.tree.structure(random_params)}"
        )
    fresh = jax.tree.leaves(random_params)
    for step in layers:
        for layer in (step,) if isinstance(step, str) else step:
            hit = [
                i
                for i, name in enumerate(names)
                if name == layer or name.startswith(f"{layer}/")
            ]
            if not hit:
                raise ValueError(
                    f"no parameter belongs to the layer {layer!r}; there are: "
                    f"{', '.join(names)}"
                )
            for i in hit:
                leaves[i] = fresh[i]
        yield jax.tree.unflatten(tree, list(leaves))
