import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import explain_fn
from introspect_jax.explain import GradientXInput

NAMES = ["gradient", "gradient_x_input"]  # all of them: test_all_explanations.py


@pytest.mark.usefixtures("x64")
class TestExact:
    def test_equals_jax_grad(self, smooth_net):
        logits_fn, inputs, labels, _ = smooth_net
        maps = explain_fn(logits_fn, inputs, labels)
        for i, label in enumerate(labels):
            grad = jax.grad(lambda x, y=label: logits_fn(x[None])[0, y])(inputs[i])
            np.testing.assert_allclose(maps[i], grad, rtol=1e-12, atol=1e-14)

    def test_linear_model_by_hand(self):
        kernel = jnp.array([[1.0, -2.0, 0.5], [3.0, 0.0, 4.0]])
        inputs = jnp.array([[10.0, 20.0], [-1.0, 2.0]])

        def logits_fn(x):
            return x @ kernel

        np.testing.assert_allclose(
            explain_fn(logits_fn, inputs, jnp.array([2, 0])), [[0.5, 4.0], [1.0, 3.0]]
        )
        np.testing.assert_allclose(
            explain_fn(logits_fn, inputs, 1, GradientXInput()),
            [[-20.0, 0.0], [2.0, 0.0]],
        )
        np.testing.assert_allclose(
            explain_fn(
                logits_fn,
                inputs,
                1,
                GradientXInput(baseline=jnp.array([4.0, 7.0])),
            ),
            [[-12.0, 0.0], [10.0, 0.0]],
        )
        # Centred: the columns lose their mean, (-1/6, 7/3).
        np.testing.assert_allclose(
            explain_fn(logits_fn, inputs, 0, center=True)[0], [7 / 6, 2 / 3]
        )

    @pytest.mark.parametrize("name", NAMES)
    def test_targets_agree(self, smooth_net, name):
        logits_fn, inputs, labels, classes = smooth_net
        every = explain_fn(logits_fn, inputs, "all", name)
        assert every.shape == (4, classes, *inputs.shape[1:])

        def explain(target):
            return explain_fn(logits_fn, inputs, target, name)

        rows = np.arange(4)
        np.testing.assert_allclose(explain(labels), every[rows, labels])
        np.testing.assert_allclose(explain(2), every[:, 2])
        pairs = jnp.stack([labels, (labels + 1) % classes], axis=1)
        np.testing.assert_allclose(explain(pairs), every[rows[:, None], pairs])
        soft = jax.random.uniform(jax.random.key(1), (4, classes))
        np.testing.assert_allclose(
            explain(soft), jnp.einsum("bk,bk...->b...", soft, every), rtol=1e-12
        )
        contrast = explain(lambda z: z[:, 1] - 2 * z[:, 3])
        np.testing.assert_allclose(contrast, every[:, 1] - 2 * every[:, 3], rtol=1e-10)

    def test_function_of_logits_may_be_nonlinear(self, smooth_net):
        logits_fn, inputs, _, _ = smooth_net
        maps = explain_fn(logits_fn, inputs, lambda z: jax.nn.log_softmax(z)[:, 1])
        grad = jax.grad(lambda x: jax.nn.log_softmax(logits_fn(x))[:, 1].sum())(inputs)
        np.testing.assert_allclose(maps, grad, rtol=1e-12)

    @pytest.mark.optimised
    @pytest.mark.parametrize("name", NAMES)
    def test_composes_with_transformations(self, smooth_net, name):
        logits_fn, inputs, labels, _ = smooth_net

        def explain(x, y):
            return explain_fn(logits_fn, x, y, name)

        eager = explain(inputs, labels)
        np.testing.assert_allclose(jax.jit(explain)(inputs, labels), eager, rtol=1e-12)
        one = jax.vmap(lambda x, y: explain(x[None], y[None])[0])(inputs, labels)
        np.testing.assert_allclose(one, eager, rtol=1e-12)
        second = jax.grad(lambda x: (explain(x, labels) ** 2).sum())(inputs)
        assert np.isfinite(second).all()
        assert np.abs(second).max() > 0


def test_dtype_follows_the_inputs(smooth_net):
    logits_fn, inputs, labels, _ = smooth_net
    low = inputs.astype(jnp.bfloat16)
    maps = explain_fn(lambda x: logits_fn(x.astype(jnp.float32)), low, labels)
    assert maps.dtype == jnp.bfloat16
    np.testing.assert_allclose(
        maps.astype(jnp.float32), explain_fn(logits_fn, inputs, labels), atol=0.3
    )


@pytest.mark.untyped
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"explanation": "gradiant"}, "did you mean 'gradient'"),
        ({"inputs": jnp.zeros((2, 3), jnp.uint8)}, "floating point"),
        ({"target": 7}, r"target must lie in 0..4 \(or be -1: no label\), got 7..7"),
        ({"target": jnp.array([0, -2])}, "got -2..0"),
        ({"target": jnp.array([0, 1, 2])}, r"ints \[2\]"),
        ({"target": "al"}, "'all'"),
        ({"target": lambda z: z}, r"scores \[2\]"),
        ({"logits_fn": lambda x: x.sum()}, r"\[batch, classes\]"),
        ({"logits_fn": lambda x: jnp.zeros((1, 5))}, "batch 2"),
        (
            {"explanation": GradientXInput(baseline=jnp.zeros((5, 3)))},
            "does not broadcast",
        ),
    ],
)
def test_bad_input(change, says):
    given = {
        "logits_fn": lambda x: x @ jnp.ones((3, 5)),
        "inputs": jnp.ones((2, 3)),
        "target": 0,
    } | change
    call = (given.pop("logits_fn"), given.pop("inputs"), given.pop("target"))
    with pytest.raises(ValueError, match=says):
        explain_fn(*call, **given)
