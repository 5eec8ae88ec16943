"""A small random network, and every explanation method at a small size."""

import jax
import jax.numpy as jnp

from introspect_jax import explain_fn

KEY = jax.random.key(11)
LABELS = jnp.array([0, 3, 2, 4])
SMALL = {
    "smoothgrad": {"num_samples": 5, "key": KEY},
    "integrated_gradients": {"num_steps": 5, "baseline": "mean"},
    "gradient_x_input": {"baseline": "blur"},
    "expected_gradients": {"num_samples": 5, "key": KEY},
    "smoothgrad_squared": {"num_samples": 5, "key": KEY},
    "vargrad": {"num_samples": 5, "key": KEY},
}
SAMPLED = ["smoothgrad", "integrated_gradients", "expected_gradients"]
LINEAR = ["gradient", "gradient_x_input", *SAMPLED, "grad_cam"]


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

    def options(self, method):
        options = {"method": method} | SMALL.get(method, {})
        if method == "expected_gradients":
            options["baselines"] = self.data
        if method == "grad_cam":
            options["head"] = (self.maps, self.top, None)
        return options


def explain(net, target, method, **changes):
    return explain_fn(net, net.inputs, target, **net.options(method) | changes)
