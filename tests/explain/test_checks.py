import jax
import jax.numpy as jnp
import pytest
from tiny import build_tiny

from introspect_jax import models
from introspect_jax.explain.checks import check_independent

pytestmark = pytest.mark.optimised


def test_train_mode_batch_normalisation_is_found():
    model = build_tiny(4)
    images = jax.random.normal(jax.random.key(0), (6, 8, 8, 1))
    variables = jax.jit(lambda x: model.init(jax.random.key(1), x, train=True))(images)
    check_independent(jax.jit(models.make_logits_fn(model, variables)), images)

    def training(x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])[0]

    with pytest.raises(ValueError, match="train=False"):
        check_independent(jax.jit(training), images)


def test_one_example_is_not_enough():
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        check_independent(lambda x: x, jnp.ones((1, 3)))


def test_what_is_not_finite_is_not_called_dependent():
    with pytest.raises(ValueError, match="not finite"):
        check_independent(lambda x: x / 0.0, jnp.ones((4, 3)))
