"""Losses, one number an example: no reduction, float32 or wider inside."""

import jax
import jax.numpy as jnp

from introspect_jax.objectives.targets import SoftTarget, as_probs, other_classes


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """`-sum_k y_k log p_k`, nats, `[batch]`.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`.
    """
    log_probs = jax.nn.log_softmax(_wide(logits))
    return -jnp.sum(as_probs(labels, logits.shape[-1]) * log_probs, axis=-1)


def kl_to_target(
    logits: jax.Array,
    target_probs: jax.Array,
    mask: jax.Array | None = None,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """`KL(q || softmax(z / T)) T^2` over the classes of `mask`, nats, `[batch]`.

    `T^2` keeps the gradient's scale (Hinton et al. 2015, section 2.1). The sum goes
    over classes, never the mean, so the scale does not depend on their number.

    Args:
      logits: `z`, `[batch, classes]`.
      target_probs: `q`, `[batch, classes]`, zero outside of the mask.
      mask: bool `[batch, classes]`, or None for all classes. Rows that are all False
        give 0.
      temperature: T, above 0.
    """
    scaled = _wide(logits) / temperature
    if mask is None:
        log_probs = jax.nn.log_softmax(scaled)
    else:
        # Rows without any class left would normalise over nothing: over all instead,
        # which their zero target then ignores.
        safe = mask | ~jnp.any(mask, axis=-1, keepdims=True)
        log_probs = jnp.where(safe, jax.nn.log_softmax(scaled, where=safe), 0.0)
    divergence = -entropy(target_probs) - jnp.sum(target_probs * log_probs, axis=-1)
    return divergence * temperature**2


def entropy(probs: jax.Array) -> jax.Array:
    """`-sum_k p_k log p_k`, nats, `[batch]`."""
    # `xlogy` has an infinite derivative at 0, where soft targets have their label.
    safe = jnp.where(probs > 0, probs, 1.0)
    return -jnp.sum(probs * jnp.log(safe), axis=-1)


def distillation(
    logits: jax.Array,
    labels: jax.Array,
    target: SoftTarget,
    temperature: float | jax.Array = 1.0,
) -> jax.Array:
    """`T^2 KL(q || p_T)` over the support of the target, nats, `[batch]`, at least 0.

    Hinton, Vinyals and Dean 2015, section 2; over the other classes it is the NCKD of
    Zhao et al., Decoupled Knowledge Distillation, CVPR 2022.

    Args:
      logits: `z`, `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      target: q; at support `"others"` both sides are restricted to them.
      temperature: T, above 0.
    """
    mask = None
    if target.support == "others":
        mask = other_classes(labels, logits.shape[-1])
    return kl_to_target(logits, target.probs, mask, temperature)


def confidence_penalty(logits: jax.Array) -> jax.Array:
    """`-H(p)`, nats, `[batch]`, in [-log K, 0].

    Pereyra et al., Regularizing Neural Networks by Penalizing Confident Output
    Distributions, 2017. A sum over classes: code that takes the mean over batch and
    classes has a K times smaller penalty.

    Args:
      logits: `[batch, classes]`.
    """
    return -entropy(jax.nn.softmax(_wide(logits)))


def complement_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Entropy of the outputs among the other classes, nats, `[batch]`.

    `-sum_{k != y} r_k log r_k` with `r_k = p_k / (1 - p_y)`, in [0, log(K - 1)]: Chen
    et al., Complement Objective Training, ICLR 2019, whose code divides it by K.

    Args:
      logits: `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`. Rows without any other
        class give 0.
    """
    mask = other_classes(labels, logits.shape[-1])
    safe = mask | ~jnp.any(mask, axis=-1, keepdims=True)
    log_probs = jnp.where(safe, jax.nn.log_softmax(_wide(logits), where=safe), 0.0)
    return -jnp.sum(jnp.where(mask, jnp.exp(log_probs) * log_probs, 0.0), axis=-1)


def mutual_divergence(
    logits: jax.Array, temperature: float | jax.Array = 1.0
) -> jax.Array:
    """What every peer learns from the others, nats, `[peers, batch]`, at least 0.

    `1 / (M - 1) sum_{j != i} T^2 KL(p_j || p_i)`, the other peers constant: Zhang et
    al., Deep Mutual Learning, CVPR 2018.

    Args:
      logits: `[peers, batch, classes]`, at least two peers.
      temperature: T, above 0; 1 in the paper.

    Raises:
      ValueError: fewer than two peers.
    """
    peers = len(logits)
    if peers < 2:
        raise ValueError(f"mutual learning needs at least two peers, got {peers}")
    probs = jax.lax.stop_gradient(jax.nn.softmax(_wide(logits) / temperature))
    return jnp.stack(
        [
            sum(
                kl_to_target(logits[i], probs[j], temperature=temperature)
                for j in range(peers)
                if j != i
            )
            / (peers - 1)
            for i in range(peers)
        ]
    )


def loss_fn(
    logits: jax.Array,
    labels: jax.Array,
    target: SoftTarget,
    *,
    weight: float | jax.Array = 0.1,
    student_temperature: float | jax.Array = 1.0,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The introspective objective, per example.

    With `p_T = softmax(z / T)`, T the `student_temperature`, `q` the target and `w` the
    weight:

    * support `"others"`: `CE(y, p) + w T^2 KL(q || p_T restricted to the others)`;
    * support `"all"`: `(1 - w) CE(y, p) + w T^2 CE(q, p_T)`, which at T = 1 is the
      cross entropy with `(1 - w) y + w q`.

    Args:
      logits: of the network in training, `[batch, classes]`.
      labels: ints `[batch]` or probabilities `[batch, classes]`.
      target: of `introspect`.
      weight: w; at most 1 for the support `"all"`.
      student_temperature: T, above 0.

    Returns:
      The loss `[batch]` in nats, and metrics, each `[batch]`: `cross_entropy`,
      `distillation` (the second term without its weight), `target_entropy` (nats),
      `target_true_mass` (the share of the soft target on the label) and `degenerate`
      (0 or 1).
    """
    probs = target.probs
    hard = cross_entropy(logits, labels)
    if target.support == "others":
        mask = other_classes(labels, logits.shape[-1])
        soft = kl_to_target(logits, probs, mask, student_temperature)
        loss = hard + weight * soft
    else:
        soft = (
            cross_entropy(logits / student_temperature, probs) * student_temperature**2
        )
        loss = (1 - weight) * hard + weight * soft
    return loss, {
        "cross_entropy": hard,
        "distillation": soft,
        **describe_target(target, labels),
    }


def describe_target(target: SoftTarget, labels: jax.Array) -> dict[str, jax.Array]:
    """What a soft target is like, each `[batch]`.

    Args:
      target: any.
      labels: ints `[batch]` or probabilities `[batch, classes]`.

    Returns:
      `target_entropy` (nats, in [0, log K]), `target_true_mass` (its share on the
      label, in [0, 1]) and `degenerate` (0 or 1).
    """
    label_probs = as_probs(labels, target.probs.shape[-1])
    return {
        "target_entropy": entropy(target.probs),
        "target_true_mass": jnp.sum(label_probs * target.probs, axis=-1),
        "degenerate": target.degenerate.astype(target.probs.dtype),
    }


def _wide(logits: jax.Array) -> jax.Array:
    return logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
