import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from introspect_jax import class_similarity, introspect, loss_fn


@pytest.mark.parametrize("support", ["others", "all"])
def test_target_is_the_softmax_of_the_similarities(smooth_net, support):
    logits_fn, inputs, labels, _ = smooth_net
    target = introspect(logits_fn, inputs, labels, temperature=0.7, support=support)
    scores = np.asarray(class_similarity(logits_fn, inputs, labels)) / 0.7
    if support == "others":
        scores[np.arange(4), labels] = -np.inf
    wanted = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(target.probs, wanted, rtol=1e-5, atol=1e-7)
    assert not target.degenerate.any()


@pytest.mark.parametrize("stop_gradient", [True, False])
def test_gradient_through_the_target_only_if_asked(stop_gradient):
    first = jax.random.normal(jax.random.key(0), (6, 5))
    second = jax.random.normal(jax.random.key(1), (5, 4))
    inputs = jax.random.normal(jax.random.key(2), (3, 6))
    labels = jnp.array([0, 1, 3])

    def target_probs(params):
        def logits_fn(x):
            return jnp.tanh(x @ params[0]) @ params[1]

        target = introspect(logits_fn, inputs, labels, stop_gradient=stop_gradient)
        return (target.probs**2).sum()

    grads = jax.grad(target_probs)((first, second))
    largest = max(float(jnp.abs(g).max()) for g in grads)
    assert largest == 0 if stop_gradient else largest > 1e-3


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("support", ["others", "all"])
@pytest.mark.parametrize("similarity", ["projection", "cosine", "dot"])
def test_second_derivatives_are_right_where_asked_for(support, similarity):
    kernels = tuple(
        0.5 * jax.random.normal(jax.random.key(i), shape)
        for i, shape in enumerate([(6, 5), (5, 4)])
    )
    inputs = jax.random.normal(jax.random.key(2), (3, 6))
    labels = jnp.array([0, 1, 3])

    @jax.jit
    def loss(kernels):
        def logits_fn(x):
            return jnp.tanh(x @ kernels[0]) @ kernels[1]

        target = introspect(
            logits_fn,
            inputs,
            labels,
            similarity=similarity,
            support=support,
            stop_gradient=False,
        )
        return loss_fn(logits_fn(inputs), labels, target, weight=0.5)[0].sum()

    check_grads(loss, (kernels,), order=1, modes=["rev"])


def test_the_three_lines_of_the_design_train_a_network():
    keys = jax.random.split(jax.random.key(0), 3)
    inputs = jax.random.normal(keys[0], (64, 8))
    labels = jnp.argmax(inputs[:, :4] + 0.5 * inputs[:, 4:], axis=-1)
    params = (
        0.3 * jax.random.normal(keys[1], (8, 16)),
        0.3 * jax.random.normal(keys[2], (16, 4)),
    )

    def apply(params, x):
        return jnp.tanh(x @ params[0]) @ params[1]

    @jax.jit
    def update(params):
        def loss(params):
            logits = apply(params, inputs)
            target = introspect(lambda x: apply(params, x), inputs, labels)
            values, _ = loss_fn(logits, labels, target, weight=0.1)
            return values.mean()

        value, grads = jax.value_and_grad(loss)(params)
        return value, jax.tree.map(lambda p, g: p - 0.5 * g, params, grads)

    first, params = update(params)
    for _ in range(200):
        last, params = update(params)
    assert last < 0.5 * first
    assert (apply(params, inputs).argmax(-1) == labels).mean() > 0.9


def test_two_classes_have_no_others():
    kernel = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="at least 3 classes"):
        introspect(lambda x: x @ kernel, jnp.ones((2, 3)), jnp.array([0, 1]))
    target = introspect(
        lambda x: x @ kernel, jnp.ones((2, 3)), jnp.array([0, 1]), support="all"
    )
    np.testing.assert_allclose(target.probs, 0.5)
