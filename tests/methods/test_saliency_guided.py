from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import loss, make
from smooth import Linear, Smooth, made

from introspect_jax.errors import UserError
from introspect_jax.methods.saliency_guided import pixel_saliency, replace_least


def test_the_least_salient_pixels_are_replaced():
    """In all channels, by values of the channel's range; of equals the first."""
    given = jax.random.normal(jax.random.key(0), (2, 3, 3, 2))
    given = given.at[..., 1].mul(100.0)
    saliency = jnp.array([[9, 1, 8, 2, 7, 3, 6, 4, 5], [0] * 9])
    index, key = jnp.array([4, 7]), jax.random.key(1)
    found = replace_least(given, saliency.reshape(2, 3, 3), 0.5, index, key)
    changed = np.asarray(found != given).reshape(2, 9, 2)
    np.testing.assert_array_equal(changed[..., 0], changed[..., 1])
    assert np.flatnonzero(changed[0, :, 0]).tolist() == [1, 3, 5, 7]
    assert np.flatnonzero(changed[1, :, 0]).tolist() == [0, 1, 2, 3]
    assert (found >= given.min((1, 2), keepdims=True)).all()
    assert (found <= given.max((1, 2), keepdims=True)).all()
    assert np.asarray(jnp.abs(found - given))[..., 1].max() > 10
    # The values of an example do not depend on its place in the batch.
    turned = replace_least(
        given[::-1], saliency[::-1].reshape(2, 3, 3), 0.5, index[::-1], key
    )
    np.testing.assert_array_equal(turned[::-1], found)


@pytest.mark.usefixtures("x64")
def test_the_saliency_is_that_of_the_labels_log_probability():
    """Of a linear network its gradient is W (y - p)."""
    method, params, _, given = made("saliency_guided", Linear())

    def logits_fn(x):
        return method.model.apply({"params": params}, x)

    found = pixel_saliency(logits_fn, given["image"], given["label"])
    probs = np.asarray(jax.nn.softmax(logits_fn(given["image"])))
    gradient = (np.asarray(given["label"]) - probs) @ params["Dense_0"]["kernel"].T
    wanted = gradient.reshape(8, 3, 3, 2).mean(-1)
    np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("order", ["magnitude", "signed"])
def test_it_is_by_its_formula(order):
    """Value and gradient: that of the divergence goes through both sides."""
    method, params, loss_of, given = made(
        "saliency_guided", Smooth(), weight=0.7, order=order
    )

    def logits_fn(params, x):
        return method.model.apply({"params": params}, x)

    saliency = pixel_saliency(
        lambda x: logits_fn(params, x), given["image"], given["label"]
    )
    masked = replace_least(
        given["image"],
        jnp.abs(saliency) if order == "magnitude" else saliency,
        0.5,
        given["index"],
        jax.random.fold_in(jax.random.key(2), 1),
    )

    def wanted(params):
        logs = jax.nn.log_softmax(logits_fn(params, given["image"]))
        others = jax.nn.log_softmax(logits_fn(params, masked))
        hard = -jnp.sum(given["label"] * logs, -1)
        return jnp.mean(hard + 0.7 * jnp.sum(jnp.exp(logs) * (logs - others), -1))

    pairs = zip(
        jax.tree.leaves(jax.value_and_grad(lambda p: loss_of(p)[0])(params)),
        jax.tree.leaves(jax.jit(jax.value_and_grad(wanted))(params)),
        strict=True,
    )
    for a, b in pairs:
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_the_masked_images_leave_the_statistics_alone():
    made = [
        jax.jit(partial(loss, make(name)))() for name in ("saliency_guided", "standard")
    ]
    chex.assert_trees_all_close(*[model_state for _, (model_state, _, _) in made])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"features_dropped": 0.0}, r"features_dropped must lie in \(0, 1\), got 0"),
        ({"features_dropped": 1.0}, r"features_dropped must lie in \(0, 1\)"),
        ({"weight": -1.0}, r"weight must lie in \[0, inf\)"),
        ({"order": "magnitudes"}, "did you mean 'magnitude'"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("saliency_guided", **options)
