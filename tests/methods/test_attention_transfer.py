import jax
import numpy as np
import pytest
from harness import (
    CLASSES,
    batch,
    ce,
    images,
    kl,
    log_probs,
    loss,
    make,
    teacher,
    teacher_probs,
)
from tiny import build_tiny

from introspect_jax import models
from introspect_jax.errors import UserError


def unit(maps):
    """Attention maps as unit vectors."""
    values = (np.asarray(maps, np.float64) ** 2).mean(-1).reshape(len(maps), -1)
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def distances(method):
    """Between the new network and the teacher, of both stages, `[batch]`."""
    params, state, _ = method.init(jax.random.key(1))
    own, _ = method.model.apply(
        {"params": params, **state},
        images(),
        train=True,
        mutable=["batch_stats"],
        method="stages",
    )
    theirs = build_tiny(CLASSES).apply(
        teacher().variables, images(), train=False, method="stages"
    )
    return sum(
        ((unit(a) - unit(b)) ** 2).mean(-1) for a, b in zip(own, theirs, strict=True)
    )


@pytest.mark.parametrize("alpha", [0.0, 0.9])
def test_it_is_by_its_formula(alpha):
    method = make("attention_transfer", alpha=alpha)
    value, (_, _, metrics) = jax.jit(lambda: loss(method))()
    hard = ce(batch(method)["label"], log_probs(method, images()))
    soft = 16 * kl(teacher_probs(images(), 4.0), log_probs(method, images(), 4.0))
    distance = distances(method)
    wanted = (1 - alpha) * hard + alpha * soft + 1000 * distance
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-4)
    np.testing.assert_allclose(
        metrics["attention_distance"], distance.mean(), rtol=1e-4
    )
    assert metrics["loss_weights"] == pytest.approx(1)


def test_the_teacher_gets_no_gradient_and_the_network_one_from_each_stage():
    method = make("attention_transfer", alpha=0.5)
    params, *states = method.init(jax.random.key(1))
    given = batch(method)

    @jax.jit
    def gradients(params, constants):
        def total(params, constants):
            told = given | {"constants": constants}
            return method.loss(params, *states, told, 0, jax.random.key(2))[0]

        return jax.grad(total, argnums=(0, 1))(params, constants)

    own, theirs = gradients(params, given["constants"])
    for leaf in jax.tree.leaves(theirs):
        np.testing.assert_array_equal(leaf, 0)
    for name in ("conv0", "conv1"):
        assert np.abs(own["backbone"][name]["kernel"]).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"alpha": 1.5}, r"attention_transfer\.alpha must lie in"),
        ({"temperature": 0.0}, "temperature must lie in"),
        ({"beta": -1.0}, "beta must lie in"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make("attention_transfer", **options)


@pytest.mark.parametrize(
    ("network", "options", "side", "says"),
    [
        (
            "vit",
            {"depth": 1},
            8,
            "Classifier has no 'stages', which .* as a teacher, n",
        ),
        ("resnet8", {}, 8, "the network has 2 and the teacher 3; choose a"),
        ("vit", {"depth": 2, "patch": 3}, 12, "stage 0 .*: maps of 6x6 and 4x4 cannot"),
    ],
)
def test_teachers_that_do_not_fit(network, options, side, says):
    given = {
        "teacher": models.build(network, CLASSES, **options),
        "image_shape": (side, side, 1),
    }
    with pytest.raises(UserError, match=says) as error:
        make("attention_transfer", given=given)
    assert "\n" not in str(error.value)
