"""`explain_fn`: explanations of any output of any function, all methods.

A method that is linear in the output cotangent is, at fixed inputs, a linear map `A`
from a cotangent `[batch, classes]` to input space `[batch, ...]`; the explanation of
class k is `A e_k`. Everything that is built on explanations (class similarity above
all) needs nothing but this map and its transpose, so a new linear method is one more
function in `paths.METHODS`.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from introspect_jax.errors import unknown
from introspect_jax.explain import paths
from introspect_jax.explain.linear import LinearExplainer, LinearMap, wait_for
from introspect_jax.explain.post import make_post
from introspect_jax.explain.targets import target_cotangents

LogitsFn = Callable[[jax.Array], jax.Array]
# (features_fn, head_fn, kernel), see `explain_fn`.
Head = tuple[LogitsFn, LogitsFn, Any]

LINEAR_METHODS = (*paths.METHODS, "grad_cam")
# Through the second moment of the samples: not linear in the cotangent.
SQUARED_METHODS = ("smoothgrad_squared", "vargrad")
METHODS = (*LINEAR_METHODS, *SQUARED_METHODS)
NONLINEARITIES = (None, "absolute", "relu")


@dataclasses.dataclass
class Explainer:
    """An explanation method at fixed inputs.

    Attributes:
      linear: the map underneath.
      method: its name.
      nonlinearity: applied last.
      post: the linear post-map, applied before the nonlinearity.
    """

    linear: LinearExplainer
    method: str
    nonlinearity: str | None
    post: LinearMap

    @property
    def is_linear(self) -> bool:
        """Whether explanations are linear in the cotangent."""
        return self.nonlinearity is None and self.method not in SQUARED_METHODS

    def explain(
        self, cotangents: jax.Array, class_chunk_size: int | None = None
    ) -> jax.Array:
        """Explanations `[batch, ...]` of cotangents `[batch, classes]`, or
        `[batch, m, ...]` of `[batch, m, classes]`."""
        if cotangents.ndim == 2:
            return self._explain(cotangents[None])[0]
        parts = self.fold(cotangents, class_chunk_size, lambda maps: (maps,))
        return jnp.concatenate([maps for (maps,) in parts], axis=1)

    def fold(
        self,
        cotangents: jax.Array,
        class_chunk_size: int | None,
        reduce: Callable[[jax.Array], tuple[jax.Array, ...]],
    ) -> list[tuple[jax.Array, ...]]:
        """What `reduce` makes of the maps `[batch, chunk, ...]` of each chunk in turn.

        Args:
          cotangents: `[batch, m, classes]`.
          class_chunk_size: how many of m at once; None for all.
          reduce: maps to arrays; only these outlive a chunk.

        Raises:
          ValueError: a size below 1.
        """
        size = class_chunk_size or cotangents.shape[1]
        if size < 1:
            raise ValueError(f"class_chunk_size must be at least 1, got {size}")
        parts: list[tuple[jax.Array, ...]] = []
        for start in range(0, cotangents.shape[1], size):
            chunk = jnp.moveaxis(cotangents[:, start : start + size], 1, 0)
            if parts:
                chunk = wait_for(parts[-1][0], chunk)
            parts.append(reduce(jnp.moveaxis(self._explain(chunk), 0, 1)))
        return parts

    def _explain(self, cotangents: jax.Array) -> jax.Array:
        """`[m, batch, ...]` of `[m, batch, classes]`."""
        if self.method in SQUARED_METHODS:
            maps = self.linear.moment(cotangents, 2)
            if self.method == "vargrad":
                maps = maps - self.linear.moment(cotangents, 1) ** 2
            maps = jax.vmap(self.post)(maps)
        else:
            maps = self.linear.attribute(cotangents)
        if self.nonlinearity == "absolute":
            return jnp.abs(maps)
        return jax.nn.relu(maps) if self.nonlinearity == "relu" else maps


def make_explainer(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    *,
    method: str = "gradient",
    key: jax.Array | None = None,
    index: jax.Array | None = None,
    head: Head | None = None,
    center: bool = False,
    score: Callable[[jax.Array], jax.Array] | None = None,
    chunk_size: int | None = None,
    channel_axis: int = -1,
    channel_sum: bool = False,
    pool: int | None = None,
    mask: Any = None,
    nonlinearity: str | None = None,
    **options: Any,
) -> Explainer:
    """An explanation method at fixed inputs, in float32 or wider; see `explain_fn`.

    Args:
      score: logits `[batch, classes]` -> `[batch]`, explained in place of the logits;
        the outputs then have one "class".

    Raises:
      ValueError: what `explain_fn` raises, but for targets.
    """
    if method not in METHODS:
        raise ValueError(unknown("explanation method", method, METHODS))
    if nonlinearity not in NONLINEARITIES:
        names = [str(name) for name in NONLINEARITIES]
        raise ValueError(unknown("nonlinearity", str(nonlinearity), names))
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"inputs must be floating point to be differentiated, got {inputs.dtype}; "
            "normalise the images first"
        )
    function = logits_fn
    if method == "grad_cam":
        if head is None:
            raise ValueError(
                "grad_cam needs head=(features_fn, head_fn, kernel), where features_fn "
                "gives the feature maps to look at; got None"
            )
        inputs, function = jnp.asarray(head[0](inputs)), head[1]
        if inputs.ndim != 4:
            raise ValueError(
                "grad_cam needs feature maps [batch, h, w, c] (or channels where "
                f"channel_axis says) of features_fn, got {inputs.shape}"
            )
    # A network of lower precision stays so inside; what is summed and compared
    # outside of it does not lose digits.
    wide = inputs.astype(jnp.promote_types(inputs.dtype, jnp.float32))

    def outputs_at(points: jax.Array) -> jax.Array:
        count, batch = points.shape[:2]
        flat = points.reshape(count * batch, *points.shape[2:]).astype(inputs.dtype)
        logits = jnp.asarray(function(flat))
        if logits.ndim != 2 or logits.shape[0] != len(flat):
            raise ValueError(
                f"logits_fn must return [batch, classes] with batch {len(flat)}, got "
                f"{logits.shape}"
            )
        logits = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
        if center:
            logits = logits - logits.mean(-1, keepdims=True)
        logits = logits.reshape(count, batch, -1)
        return logits if score is None else _scored(score, logits)

    if index is None:
        index = jnp.arange(len(wide))
    base = "smoothgrad" if method in SQUARED_METHODS else method
    if base == "grad_cam":
        base = "gradient"
    path = paths.METHODS[base](wide, key, index, **options)
    post = make_post(
        wide,
        channel_axis=channel_axis,
        channel_sum=channel_sum,
        pool=pool,
        mask=mask,
        weigh_channels=method == "grad_cam",
    )
    linear = LinearExplainer(outputs_at, path, post, wide, chunk_size)
    return Explainer(linear, method, nonlinearity, post)


def _scored(score: Any, logits: jax.Array) -> jax.Array:
    """Scores `[n, batch, 1]` of logits `[n, batch, classes]`."""
    batch = logits.shape[1]
    shape = jax.eval_shape(score, logits[0]).shape
    if shape != (batch,):
        raise ValueError(f"a target function must return scores [{batch}], got {shape}")
    return jax.vmap(score)(logits)[..., None]


def explain_fn(
    logits_fn: LogitsFn,
    inputs: jax.Array,
    target: Any,
    *,
    method: str = "gradient",
    key: jax.Array | None = None,
    class_chunk_size: int | None = None,
    **options: Any,
) -> jax.Array:
    """Explanations of the chosen outputs, signed and as large as the inputs.

    Never jitted inside and free of state, so it composes with `jax.jit`, `vmap`,
    `grad` and `shard_map`. No absolute value, reduction or clipping unless asked for.

    | method                 | `A c`                                  | options |
    | ---------------------- | -------------------------------------- | ------- |
    | `gradient`             | `J(x)^T c`                             |         |
    | `gradient_x_input`     | `(x - b) * J(x)^T c`                   | `baseline` |
    | `smoothgrad`           | `mean_i J(x + e_i)^T c`                | `num_samples`, \
`noise_level`, `sigma`, `noise` |
    | `integrated_gradients` | `(x - b) * sum_i w_i J(b + t_i (x - b))^T c` | \
`baseline`, `num_steps`, `rule` |
    | `expected_gradients`   | `mean_i (x - b_i) * J(b_i + t_i (x - b_i))^T c` | \
`baselines`, `num_samples` |
    | `grad_cam`             | channels of the features, weighted by their mean \
gradient, summed | `head` |
    | `smoothgrad_squared`   | mean of the squares over the samples (not linear) | as \
`smoothgrad` |
    | `vargrad`              | variance over the samples (not linear) | as \
`smoothgrad` |

    Sources, defaults and ranges of the options: the functions of the same names in
    `explain.paths`; the baselines: `explain.baselines`.

    Args:
      logits_fn: inputs -> logits `[batch, classes]`, each example on its own, for any
        batch size: samples and steps are folded into the batch.
      inputs: floating point, `[batch, ...]`, any layout.
      target: what to explain: an int; ints `[batch]` or `[batch, m]`; `"all"`;
        `"top:m"`; vectors `[batch, classes]`; or a function of the logits to scores
        `[batch]`, such as `targets.contrast` and `targets.log_probability` make.
      method: see above.
      key: random key, for the methods that sample. Each example's own key folds in its
        number, so the result does not depend on how a batch was cut.
      class_chunk_size: targets explained at once; None for all.
      **options: those of the method, and of all methods:
        `chunk_size`: samples or steps at once, None for all (memory grows with it; the
        result does not depend on it).
        `index`: int `[batch]`, the examples' numbers for their keys (0, 1, ...).
        `center`: explain `z - mean(z)`, which drops what a softmax cannot see.
        `head`: `(features_fn, head_fn, kernel)`, `logits = head_fn(features_fn(x))`;
        for `grad_cam`, whose features are maps `[batch, h, w, c]`.
        `channel_sum`, `pool`, `mask`, `channel_axis`: see `explain.post`.
        `nonlinearity`: `"absolute"` or `"relu"`, applied last.

    Returns:
      `[batch, ...]` in the inputs' dtype, or `[batch, m, ...]` for several targets an
      example (`m = classes` for `"all"`); `grad_cam` gives `[batch, h, w, 1]`.

    Raises:
      ValueError: unknown names, integer inputs, logits that are not
        `[batch, classes]`, a class out of range, another shape, a missing `key` or
        `head`.
    """
    score = target if callable(target) else None
    explainer = make_explainer(
        logits_fn, inputs, method=method, key=key, score=score, **options
    )
    linear = explainer.linear
    if score is not None:
        target = jnp.ones(linear.outputs.shape, linear.outputs.dtype)
    cotangents = target_cotangents(
        target,
        linear.outputs,
        linear.like,
        lambda: linear.function(linear.like[None])[0],
    )
    maps = explainer.explain(cotangents, class_chunk_size)
    return maps.astype(jnp.asarray(inputs).dtype)
