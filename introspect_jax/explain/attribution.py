"""Explanations that are linear in the output cotangent.

Such a method is, at fixed inputs, a linear map `A` from an output cotangent
`[batch, classes]` to input space `[batch, ...]`; the explanation of class k is
`A e_k`. Everything that is built on explanations (class similarity above all) needs
nothing but this map, so a new linear method is one more function in `LINEAR_METHODS`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from introspect_jax.errors import unknown

LogitsFn = Callable[[jax.Array], jax.Array]
LinearMap = Callable[[jax.Array], jax.Array]


def _gradient(logits_fn: LogitsFn, inputs: jax.Array) -> tuple[jax.Array, LinearMap]:
    """`A c = J(x)^T c`."""
    logits, vjp = jax.vjp(logits_fn, inputs)
    return logits, lambda cotangent: vjp(cotangent)[0]


def _gradient_x_input(
    logits_fn: LogitsFn, inputs: jax.Array, *, baseline: Any = 0.0
) -> tuple[jax.Array, LinearMap]:
    """`A c = (x - b) * J(x)^T c`."""
    baseline = jnp.asarray(baseline, inputs.dtype)
    try:
        baseline = jnp.broadcast_to(baseline, inputs.shape)
    except ValueError as error:
        raise ValueError(
            f"baseline has shape {baseline.shape}, which does not broadcast to the "
            f"inputs' {inputs.shape}"
        ) from error
    logits, gradient = _gradient(logits_fn, inputs)
    return logits, lambda cotangent: (inputs - baseline) * gradient(cotangent)


# name -> function(logits_fn, inputs, **options) -> (logits, linear map)
LINEAR_METHODS: dict[str, Callable[..., tuple[jax.Array, LinearMap]]] = {
    "gradient": _gradient,
    "gradient_x_input": _gradient_x_input,
}


def linear_explainer(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    *,
    method: str = "gradient",
    center: bool = False,
    **options,
) -> tuple[jax.Array, LinearMap]:
    """The logits and the linear map of an explanation method, in float32 or wider.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`; the logits of one example must
        not depend on the others (a BatchNorm uses its running statistics).
      inputs: floating point, `[batch, ...]`.
      method: a name in `LINEAR_METHODS`.
      center: explain `z - mean(z)`, which drops what a softmax cannot see.
      **options: those of the method.

    Returns:
      `logits [batch, classes]` (centred if asked) and `A`, which maps a cotangent of
      their shape and dtype to `[batch, ...]`. `A` is linear, so `jax.vmap` and
      `jax.linear_transpose` apply to it.

    Raises:
      ValueError: unknown method, integer inputs, or logits that are not
        `[batch, classes]`.
    """
    if method not in LINEAR_METHODS:
        raise ValueError(unknown("explanation method", method, LINEAR_METHODS))
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"inputs must be floating point to be differentiated, got {inputs.dtype}; "
            "normalise the images first"
        )
    # A network of lower precision stays so inside; what is summed and compared
    # outside of it does not lose digits.
    wide = jnp.promote_types(inputs.dtype, jnp.float32)

    def wide_logits(x):
        logits = jnp.asarray(logits_fn(x.astype(inputs.dtype)))
        if logits.ndim != 2 or logits.shape[0] != inputs.shape[0]:
            raise ValueError(
                "logits_fn must return [batch, classes] with batch "
                f"{inputs.shape[0]}, got {logits.shape}"
            )
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        return logits - logits.mean(-1, keepdims=True) if center else logits

    return LINEAR_METHODS[method](wide_logits, inputs.astype(wide), **options)


def target_cotangents(target: Any, logits: jax.Array) -> jax.Array:
    """The output cotangents that a target picks.

    Args:
      target: an int; ints `[batch]` or `[batch, m]`; `"all"`; vectors
        `[batch, classes]` (one-hot or soft, floating point); or a function
        `logits [batch, classes] -> scores [batch]`.
      logits: `[batch, classes]`.

    Returns:
      `[batch, classes]`, or `[batch, m, classes]` for several targets an example.

    Raises:
      ValueError: another shape, or a class out of range.
    """
    batch, classes = logits.shape
    if callable(target):
        scores, vjp = jax.vjp(target, logits)
        if scores.shape != (batch,):
            raise ValueError(
                f"a target function must return scores [{batch}], got {scores.shape}"
            )
        return vjp(_varying_like(scores, jnp.ones_like(scores)))[0]
    if isinstance(target, str):
        if target != "all":
            raise ValueError(
                f"the only string that is a target is 'all', got {target!r}"
            )
        eye = jnp.eye(classes, dtype=logits.dtype)
        return _varying_like(logits, jnp.broadcast_to(eye, (batch, classes, classes)))
    target = jnp.asarray(target)
    if jnp.issubdtype(target.dtype, jnp.integer):
        _check_range(target, classes)
        if target.ndim == 0:
            target = jnp.broadcast_to(target, (batch,))
        if target.ndim in (1, 2) and target.shape[0] == batch:
            one_hot = jax.nn.one_hot(target, classes, dtype=logits.dtype)
            return _varying_like(logits, one_hot)
    elif target.shape == logits.shape:
        return _varying_like(logits, target.astype(logits.dtype))
    raise ValueError(
        f"target must be an int, ints [{batch}] or [{batch}, m], or vectors "
        f"[{batch}, {classes}], got {target.dtype}{list(target.shape)}"
    )


def _varying_like(outputs: jax.Array, cotangents: jax.Array) -> jax.Array:
    """The same values, marked as varying over the mesh axes that `outputs` vary over.

    Inside `jax.shard_map` a VJP takes no cotangent that is the same everywhere for an
    output that is not. The selection has two equal sides and compiles to nothing.
    """
    anything = outputs == outputs
    if cotangents.ndim > outputs.ndim:
        anything = anything[:, None]
    return jnp.where(anything, cotangents, cotangents)


def _check_range(labels: jax.Array, classes: int) -> None:
    if isinstance(labels, jax.core.Tracer) or labels.size == 0:
        return  # only known when run: one_hot then gives a zero row
    values = np.asarray(labels)  # NumPy: under `jit` even constants would be traced
    low, high = values.min(), values.max()
    if low < 0 or high >= classes:
        raise ValueError(f"classes must lie in 0..{classes - 1}, got {low}..{high}")


def explain_fn(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    target: Any,
    *,
    method: str = "gradient",
    key: jax.Array | None = None,
    **options,
) -> jax.Array:
    """Explanations of the chosen outputs, signed and as large as the inputs.

    Never jitted inside and free of state, so it composes with `jax.jit`, `vmap`,
    `grad` and `shard_map`. No absolute value, reduction or clipping is applied.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`, each example on its own.
      inputs: floating point, `[batch, ...]`, any layout.
      target: what to explain, see `target_cotangents`.
      method: `"gradient"` (Simonyan et al. 2014) or `"gradient_x_input"` (Shrikumar
        et al. 2016; option `baseline`, 0 by default).
      key: random key of the methods that sample; these two do not.
      **options: those of the method.

    Returns:
      `[batch, ...]` in the inputs' dtype, or `[batch, m, ...]` for several targets an
      example (`m = classes` for `"all"`).

    Raises:
      ValueError: see `linear_explainer` and `target_cotangents`.
    """
    del key
    logits, attribute = linear_explainer(logits_fn, inputs, method=method, **options)
    cotangents = target_cotangents(target, logits)
    if cotangents.ndim == 3:
        attribute = jax.vmap(attribute, in_axes=1, out_axes=1)
    return attribute(cotangents).astype(jnp.asarray(inputs).dtype)
