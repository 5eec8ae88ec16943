"""Do class similarities say what soft responses say? Rank correlations.

A similarity may know of classes (row y of a matrix would do as well), or of the single
example; and what it knows of the example may be no more than the network's own outputs.
"""

import jax
import jax.numpy as jnp


def rank_agreement(
    similarities: jax.Array, responses: jax.Array, labels: jax.Array
) -> dict[str, jax.Array]:
    """Do similarities order the other classes as soft responses do? Spearman's rho.

    Args:
      similarities: of `class_similarity`, `[examples, classes]`.
      responses: e.g. a teacher's probabilities or logits, `[examples, classes]`.
      labels: ints `[examples]`, whose own class is left out.

    Returns:
      `example`: `[examples]`, within each example; `class`: `[classes]`, within each
      class's means over its examples (not a number for classes without examples);
      `instance`: `[examples]`, within each example once the means of its class are
      taken off both, which leaves what is specific to it (not a number where nothing
      is).
    """
    classes = similarities.shape[1]
    means = [_class_means(v, labels) for v in (similarities, responses)]
    rows = _others(classes)
    return {
        "example": spearman(_left(similarities, labels), _left(responses, labels)),
        "class": spearman(*(jnp.take_along_axis(m, rows, axis=1) for m in means)),
        "instance": spearman(
            _instance_part(similarities, labels), _instance_part(responses, labels)
        ),
    }


def agreement_beyond(
    similarities: jax.Array, responses: jax.Array, known: jax.Array, labels: jax.Array
) -> jax.Array:
    """What similarities know of responses that `known` does not, `[examples]`.

    The partial rank correlation, within each example, of the parts specific to it:
    `(r_sr - r_sk r_rk) / sqrt((1 - r_sk^2) (1 - r_rk^2))`.

    Args:
      similarities: `[examples, classes]`.
      responses: of a teacher, `[examples, classes]`.
      known: e.g. the network's own logits, `[examples, classes]`.
      labels: ints `[examples]`, whose own class is left out.

    Returns:
      `[examples]`, in [-1, 1]; not a number where a part is constant, or all that two
      of them say is the same.
    """
    ours, theirs, own = (
        _instance_part(values, labels) for values in (similarities, responses, known)
    )
    both, given_ours, given_theirs = (
        spearman(ours, theirs),
        spearman(ours, own),
        spearman(theirs, own),
    )
    left = (1 - given_ours**2) * (1 - given_theirs**2)
    # What rounding leaves of 0 is no scale.
    scale = jnp.sqrt(jnp.where(left > 1e-6, left, jnp.nan))
    return (both - given_ours * given_theirs) / scale


def spearman(a: jax.Array, b: jax.Array) -> jax.Array:
    """Spearman's rank correlation of rows `[rows, n]`, ties by their mean rank.

    Returns:
      `[rows]`; not a number where a row is constant or not a number.
    """
    a, b = _centred_ranks(a), _centred_ranks(b)
    scale = jnp.sqrt((a**2).sum(-1) * (b**2).sum(-1))
    return (a * b).sum(-1) / scale


def _others(classes: int) -> jax.Array:
    """`[classes, classes - 1]`: row y has the classes that are not y, in order."""
    return jnp.arange(classes - 1) + (
        jnp.arange(classes - 1) >= jnp.arange(classes)[:, None]
    )


def _left(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Each row without its label."""
    return jnp.take_along_axis(values, _others(values.shape[1])[labels], axis=1)


def _class_means(values: jax.Array, labels: jax.Array) -> jax.Array:
    """`[classes, classes]`: the mean row of the examples of each class."""
    one_hot = jax.nn.one_hot(labels, values.shape[1], dtype=values.dtype)
    return one_hot.T @ values / one_hot.sum(0)[:, None]


def _instance_part(values: jax.Array, labels: jax.Array) -> jax.Array:
    """Each row without its label, and without what its class shares."""
    left = _left(values - _class_means(values, labels)[labels], labels)
    # Rows that are the same for a whole class differ by rounding only.
    noise = 1e-5 * jnp.max(jnp.abs(values), axis=-1, keepdims=True)
    return jnp.where(jnp.max(jnp.abs(left), -1, keepdims=True) > noise, left, 0.0)


def _centred_ranks(values: jax.Array) -> jax.Array:
    def one(row):
        ordered = jnp.sort(row)
        low = jnp.searchsorted(ordered, row, side="left")
        high = jnp.searchsorted(ordered, row, side="right")
        rank = (low + high - 1) / 2
        return jnp.where(jnp.isnan(row).any(), jnp.nan, rank - rank.mean())

    return jax.vmap(one)(values)
