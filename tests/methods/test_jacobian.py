import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness import CLASSES, make
from jax.test_util import check_grads
from smooth import Smooth, made

from introspect_jax.errors import UserError
from introspect_jax.methods.jacobian import directions
from introspect_jax.objectives.losses import squared_jacobian


def squares(model, params, images):
    """`|dz/dx|^2` of each example, `[batch]`, by its whole Jacobian."""

    def norm(image):
        rows = jax.jacobian(lambda x: model.apply({"params": params}, x[None])[0])(
            image
        )
        return jnp.sum(rows**2)

    return jax.jit(jax.vmap(norm))(images)


@pytest.mark.usefixtures("x64")
def test_the_exact_norm_is_a_sum_over_classes():
    method, params, loss, given = made("jacobian", Smooth(), weight=0.3, projections=-1)
    value, (_, _, metrics) = loss(params)
    wanted = squares(method.model, params, given["image"]).mean()
    np.testing.assert_allclose(metrics["squared_jacobian"], wanted, rtol=1e-10)
    hard = metrics["cross_entropy"]
    np.testing.assert_allclose(value, hard + 0.15 * wanted, rtol=1e-10)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("projections", [-1, 1])
def test_its_gradient_is_that_of_differences(projections):
    _, params, loss, _ = made(
        "jacobian", Smooth(norm=True), weight=0.5, projections=projections
    )
    check_grads(lambda p: loss(p)[0], (params,), order=1, modes=["rev"], rtol=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_mean_of_the_estimate_is_the_exact_norm():
    """Exactly, over a rotated basis; and over many vectors, drawn uniformly."""
    method, params, _, given = made("jacobian", Smooth())
    wanted = squares(method.model, params, given["image"])
    _, pullback = jax.vjp(
        lambda x: method.model.apply({"params": params}, x), given["image"]
    )

    @jax.jit
    def estimate(vectors):
        return squared_jacobian(lambda v: pullback(v)[0], vectors)

    basis, _ = np.linalg.qr(np.random.RandomState(0).normal(size=(CLASSES, CLASSES)))
    rotated = jnp.broadcast_to(basis[:, None], (CLASSES, 8, CLASSES))
    np.testing.assert_allclose(estimate(rotated), wanted, rtol=1e-10)

    drawn = directions(5000, (8, CLASSES), given["index"], jax.random.key(0))
    np.testing.assert_allclose(jnp.linalg.norm(drawn, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(estimate(drawn), wanted, rtol=0.05)
    assert not np.allclose(estimate(drawn[:1]), wanted, rtol=0.05)


@pytest.mark.usefixtures("x64")
def test_all_classes_are_right_on_average_where_examples_are_connected():
    """The squares of what all logits of the batch change by an image, by the whole
    Jacobian of a network with a batch normalisation in train mode."""
    method, params, _, given = made("jacobian", Smooth(norm=True))
    _, state, _ = method.init(jax.random.key(1))
    images = given["image"]

    def logits_of(x):
        variables = {"params": params, **state}
        return method.model.apply(variables, x, train=True, mutable="batch_stats")[0]

    whole = jax.jit(jax.jacobian(logits_of))(images)
    wanted = (np.asarray(whole).reshape(8, CLASSES, 8, -1) ** 2).sum((0, 1, 3))
    _, pullback = jax.vjp(logits_of, images)
    keys = jax.random.split(jax.random.key(0), 1000)
    drawn = jax.vmap(lambda k: directions(-1, (8, CLASSES), given["index"], k))(keys)
    drawn = drawn.reshape(-1, 8, CLASSES).astype("f8")
    estimate = jax.jit(lambda v: squared_jacobian(lambda c: pullback(c)[0], v))
    np.testing.assert_allclose(estimate(drawn), wanted, rtol=0.1)
    plain = jnp.broadcast_to(jnp.eye(CLASSES)[:, None], (CLASSES, 8, CLASSES))
    assert (np.asarray(estimate(plain.astype("f8"))) < 0.8 * wanted).any()


def test_vectors_are_of_the_example_not_of_its_place():
    index = jnp.array([3, 9, 4])
    found = directions(2, (3, CLASSES), index, jax.random.key(0))
    moved = directions(2, (3, CLASSES), index[::-1], jax.random.key(0))
    np.testing.assert_array_equal(found, moved[:, ::-1])
    assert not np.allclose(found[0], found[1])
    assert not np.allclose(found[:, 0], found[:, 1])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"projections": 0}, "at least 1, or -1 for all classes, got 0"),
        ({"projections": 4}, "is 4, and the data have 4 classes: -1 takes"),
        ({"weight": -0.1}, r"weight must lie in \[0, inf\)"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("jacobian", **options)
