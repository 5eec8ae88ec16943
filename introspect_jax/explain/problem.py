"""A function at fixed inputs, with the execution options of a call."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer, Key

from introspect_jax.arrays import wide_dtype

LogitsFn = Callable[..., Any]
Score = Callable[[Array], Array]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A function at fixed inputs, with the execution options of a call.

    Created by `make_problem` and passed to `Explanation.bind`.

    Attributes:
      logits_fn: Function `(inputs, *batched) -> logits [batch, classes]`.
      inputs: Array `[batch, ...]`, float32 or wider, so that sums and comparisons
        outside the network keep their precision.
      dtype: Dtype of the inputs passed to `logits_fn`.
      batched: Arrays `[batch, ...]`, additional arguments of `logits_fn`.
      key: Random key, or None.
      index: Ints `[batch]`, the example numbers for the random keys.
      chunk_size: Number of samples or steps processed at once; None for all.
      channel_axis: Channel axis of the inputs; None if there are no channels.
      center: Whether the mean over the classes is subtracted from the logits.
      score: Function from logits `[batch, classes]` to scores `[batch]`, explained
        instead of the logits; the outputs then have a single "class". None explains the
        logits.
      outputs: Shape `[batch, classes]` and dtype of the outputs.
    """

    logits_fn: LogitsFn
    inputs: Float[Array, " batch *dims"]
    dtype: Any
    batched: tuple[Array, ...]
    key: Key[Array, ""] | Array | None
    index: Integer[Array, " batch"]
    chunk_size: int | None
    channel_axis: int | None
    center: bool
    score: Score | None
    outputs: jax.ShapeDtypeStruct = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        shape = jax.eval_shape(self.logits, self.inputs)
        object.__setattr__(self, "outputs", shape)

    def logits(self, inputs: Array) -> Array:
        """Outputs `[batch, classes]` at other inputs `[batch, ...]`."""
        return self.logits_at(inputs[:, None])[:, 0]

    def logits_at(self, points: Array) -> Array:
        """Outputs `[batch, n, classes]` at n points for each input, `[batch, n, ...]`.

        The points are folded into the batch with the examples first, which preserves
        the sharding of the batch.
        """
        batch, count = points.shape[:2]
        repeated = tuple(
            jnp.broadcast_to(array[:, None], (batch, count, *array.shape[1:])).reshape(
                batch * count, *array.shape[1:]
            )
            for array in self.batched
        )
        flat = points.reshape(batch * count, *points.shape[2:]).astype(self.dtype)
        logits = self._call(flat, repeated, count)
        logits = logits.astype(wide_dtype(logits.dtype))
        if self.center:
            logits = logits - logits.mean(-1, keepdims=True)
        logits = logits.reshape(batch, count, logits.shape[-1])
        return logits if self.score is None else _scored(self.score, logits)

    def _call(self, inputs: Array, batched: tuple[Array, ...], count: int) -> Array:
        try:
            logits = self.logits_fn(inputs, *batched)
        except (TypeError, ValueError) as error:
            if count == 1:  # fails without folding, too
                raise
            raise ValueError(
                f"logits_fn works for a batch of {len(self.inputs)} and fails for one "
                f"of {len(inputs)}, into which samples or steps are folded; arrays "
                "with a row for each example, such as masks, must be arguments: pass "
                "them as batched=(mask,) to logits_fn = lambda x, mask: ..."
            ) from error
        if not hasattr(logits, "shape") or not hasattr(logits, "dtype"):
            raise ValueError(
                "logits_fn must return one array [batch, classes], got "
                f"{_describe(logits)}; wrap it, as in lambda x: f(x)[0]"
            )
        if len(logits.shape) != 2 or logits.shape[0] != len(inputs):
            raise ValueError(
                f"logits_fn must return [batch, classes] with batch {len(inputs)}, got "
                f"{list(logits.shape)}"
            )
        return jnp.asarray(logits)

    def at(self, logits_fn: LogitsFn, inputs: Any, **changes: Any) -> "Problem":
        """The same problem for another function and inputs, e.g. a layer's outputs."""
        inputs = jnp.asarray(inputs)
        return dataclasses.replace(
            self,
            logits_fn=logits_fn,
            inputs=inputs.astype(wide_dtype(inputs.dtype)),
            dtype=inputs.dtype,
            **changes,
        )

    def example_keys(self, purpose: str) -> Key[Array, " batch"] | Array:
        """Random keys `[batch]` that do not depend on the batch an example is in.

        Raises:
          ValueError: `key` is None.
        """
        return example_keys(self.key, self.index, purpose)

    def space(self, purpose: str) -> tuple[int, ...]:
        """Axes of the inputs other than the batch and channel axes.

        Raises:
          ValueError: There are no such axes.
        """
        return spatial_axes(self.inputs.shape, self.channel_axis, purpose)


def make_problem(
    logits_fn: LogitsFn,
    inputs: Any,
    *,
    key: Any = None,
    index: Any = None,
    chunk_size: int | None = None,
    channel_axis: int | None = -1,
    center: bool = False,
    batched: tuple[Any, ...] = (),
    score: Score | None = None,
) -> Problem:
    """Checks the arguments shared by the functions of this package; see `explain_fn`.

    Raises:
      ValueError: Inputs that are not a single floating-point array, arguments with
        another batch size, a chunk size below 1, an axis out of range, or a `logits_fn`
        that does not return `[batch, classes]`.
    """
    if not hasattr(inputs, "shape") or not hasattr(inputs, "dtype"):
        raise ValueError(
            f"inputs must be one array, got {_describe(inputs)}; explain one of them "
            "and close over the rest, as in lambda x: f({'image': x, 'text': text}), "
            "or pass arrays with a row for each example as batched=(text,)"
        )
    inputs = jnp.asarray(inputs)
    if not jnp.issubdtype(inputs.dtype, jnp.floating):
        raise ValueError(
            f"inputs must be floating point to be differentiated, got {inputs.dtype}; "
            "normalise the images first"
        )
    if inputs.ndim == 0:
        raise ValueError("inputs must be [batch, ...], got a scalar")
    batch = len(inputs)
    check_chunk("chunk_size", chunk_size)
    if channel_axis is not None and not -inputs.ndim < channel_axis < inputs.ndim:
        raise ValueError(
            f"channel_axis is {channel_axis}, but the inputs have shape "
            f"{list(inputs.shape)}"
        )
    if channel_axis is not None and channel_axis % inputs.ndim == 0 < inputs.ndim - 1:
        raise ValueError(
            f"channel_axis is {channel_axis}, the axis of the batch, for inputs of "
            f"shape {list(inputs.shape)}"
        )
    index = jnp.arange(batch) if index is None else jnp.asarray(index)
    if index.shape != (batch,) or not jnp.issubdtype(index.dtype, jnp.integer):
        raise ValueError(
            f"index must be ints [{batch}], got {index.dtype}{list(index.shape)}"
        )
    arrays = tuple(jnp.asarray(array) for array in batched)
    for array in arrays:
        if array.ndim == 0 or len(array) != batch:
            raise ValueError(
                f"batched must hold arrays with {batch} rows, like the inputs, got "
                f"{list(array.shape)}"
            )
    return Problem(
        logits_fn=logits_fn,
        inputs=inputs.astype(wide_dtype(inputs.dtype)),
        dtype=inputs.dtype,
        batched=arrays,
        key=key,
        index=index,
        chunk_size=chunk_size,
        channel_axis=channel_axis,
        center=center,
        score=score,
    )


def check_chunk(name: str, size: int | None) -> None:
    """Raises a ValueError for a chunk size below 1."""
    if size is not None and size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")


def example_keys(key: Any, index: Array, purpose: str) -> Array:
    """Random keys `[batch]`: `key` folded with the number of each example.

    Raises:
      ValueError: `key` is None.
    """
    if key is None:
        raise ValueError(
            f"{purpose} draws random numbers: give it key=jax.random.key(0)"
        )

    def fold(number: Array) -> Array:
        return jax.random.fold_in(key, number)

    keys: Array = jax.vmap(fold)(index)
    return keys


def spatial_axes(
    shape: tuple[int, ...], channel_axis: int | None, purpose: str
) -> tuple[int, ...]:
    """Axes other than the batch and channel axes.

    Raises:
      ValueError: There are no such axes.
    """
    channels = None if channel_axis is None else channel_axis % len(shape)
    space = tuple(axis for axis in range(1, len(shape)) if axis != channels)
    if not space:
        raise ValueError(
            f"{purpose} needs inputs with spatial axes, such as [batch, h, w, c], got "
            f"{list(shape)} with channel_axis={channel_axis}; for inputs without "
            "channels give channel_axis=None"
        )
    return space


def image_axes(
    shape: tuple[int, ...], channel_axis: int | None, purpose: str
) -> tuple[int, ...]:
    """Spatial axes of images; raises if the default layout is ambiguous.

    Raises:
      ValueError: The default layout, channels last, does not match the shape: there are
        fewer than two spatial axes, or at least as many channels as pixels along a side
        (and not 1 or 3), as in greyscale images, volumes and images with channels
        first.
    """
    space = spatial_axes(shape, channel_axis, purpose)
    if channel_axis != -1:  # set by the caller
        return space
    sides, channels = [shape[axis] for axis in space], shape[-1]
    if len(space) < 2 or (channels not in (1, 3) and channels >= min(sides)):
        raise ValueError(
            f"{purpose} takes the last axis for channels, which is doubtful for inputs "
            f"of shape {list(shape)}; say which axis it is, with channel_axis="
            f"{len(shape) - 1} (the last), 1 (channels first) or None (no channels)"
        )
    return space


def _scored(score: Score, logits: Array) -> Array:
    """Scores `[batch, n, 1]` of logits `[batch, n, classes]`."""
    batch = logits.shape[0]
    shape = jax.eval_shape(score, logits[:, 0]).shape
    if shape != (batch,):
        raise ValueError(f"a target function must return scores [{batch}], got {shape}")
    scores: Array = jax.vmap(score, in_axes=1, out_axes=1)(logits)
    return scores[..., None]


def _describe(value: Any) -> str:
    if isinstance(value, dict):
        return f"a dict with the keys {', '.join(map(repr, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
