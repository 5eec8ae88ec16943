"""A small random network, and every explanation at a small size."""

import jax
import jax.numpy as jnp

from introspect_jax import explain_fn
from introspect_jax.explain import (
    ExpectedGradients,
    GradCAM,
    Gradient,
    GradientXInput,
    HiResCAM,
    IntegratedGradients,
    SmoothGrad,
    SmoothGradSquared,
    VarGrad,
)

KEY = jax.random.key(11)
LABELS = jnp.array([0, 3, 2, 4])
SAMPLED = ["smoothgrad", "integrated_gradients", "expected_gradients"]
CAMS = ["grad_cam", "hires_cam"]
LINEAR = ["gradient", "gradient_x_input", *SAMPLED, *CAMS]


class ConvNet:
    """conv 2->3, tanh | mean over space, linear to 5: smooth, with a head."""

    def __init__(self, key=0):
        keys = jax.random.split(jax.random.key(key), 4)
        self.inputs = jax.random.normal(keys[0], (4, 4, 6, 2))
        self.data = jax.random.normal(keys[3], (7, 4, 6, 2))
        self.params = (
            jax.random.normal(keys[1], (3, 3, 2, 3)),
            jax.random.normal(keys[2], (3, 5)),
        )

    def maps(self, x, params=None):
        kernel = (params or self.params)[0].astype(x.dtype)
        return jnp.tanh(
            jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        )

    def top(self, h, params=None):
        return (h**2).mean((1, 2)) @ (params or self.params)[1].astype(h.dtype)

    def __call__(self, x, params=None):
        return self.top(self.maps(x, params), params)

    def explanation(self, name, params=None, count=5):
        """Each of `EXPLANATIONS` at a small size."""

        def maps(x):
            return self.maps(x, params)

        def top(h):
            return self.top(h, params)

        return {
            "gradient": lambda: Gradient(),
            "gradient_x_input": lambda: GradientXInput("blur"),
            "smoothgrad": lambda: SmoothGrad(count),
            "smoothgrad_squared": lambda: SmoothGradSquared(count),
            "vargrad": lambda: VarGrad(count),
            "integrated_gradients": lambda: IntegratedGradients(count, "mean"),
            "expected_gradients": lambda: ExpectedGradients(self.data, count),
            "grad_cam": lambda: GradCAM(maps, top),
            "hires_cam": lambda: HiResCAM(maps, top),
        }[name]()


def explain(net, target, name, **execution):
    """In one program: one by one, its many operations compile slowly."""
    explanation = net.explanation(name)

    @jax.jit
    def run(inputs):
        return explain_fn(net, inputs, target, explanation, key=KEY, **execution)

    return run(net.inputs)
