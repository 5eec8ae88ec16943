"""The network of `captum_zennit.npz` (captum 0.9.0, zennit 0.5.1), in two layouts."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np

ARRAYS = np.load(pathlib.Path(__file__).parent / "captum_zennit.npz")


class Net:
    """conv 2->4, ReLU, max-pool, conv 4->3, ReLU, 27->8, ReLU, 8->5; float64."""

    def __init__(self, layout: str):
        self.nchw = layout == "NCHW"
        self.channel_axis = 1 if self.nchw else -1
        self.param = {k: jnp.asarray(ARRAYS[f"param/{k}"]) for k in _NAMES}

    def to(self, array):
        """From NCHW, as stored, to the layout; only the last four axes move."""
        array = jnp.asarray(array)
        return array if self.nchw else jnp.moveaxis(array, -3, -1)

    def back(self, array):
        """To NCHW."""
        array = np.asarray(array)
        return array if self.nchw else np.moveaxis(array, -1, -3)

    def conv(self, x, name):
        spec = "NCHW" if self.nchw else "NHWC"
        out = jax.lax.conv_general_dilated(
            x,
            self.param[f"{name}.weight"],
            (1, 1),
            "SAME",
            dimension_numbers=(spec, "OIHW", spec),
        )
        bias = self.param[f"{name}.bias"]
        return out + bias.reshape((1, -1, 1, 1) if self.nchw else (1, 1, 1, -1))

    def relu1(self, x):
        return jax.nn.relu(self.conv(x, "conv1"))

    def after_relu1(self, h):
        window = (1, 1, 2, 2) if self.nchw else (1, 2, 2, 1)
        pooled = jax.lax.reduce_window(
            h, -jnp.inf, jax.lax.max, window, window, "VALID"
        )
        return self.after_relu2(jax.nn.relu(self.conv(pooled, "conv2")))

    def relu2(self, x):
        h = self.relu1(x)
        window = (1, 1, 2, 2) if self.nchw else (1, 2, 2, 1)
        pooled = jax.lax.reduce_window(
            h, -jnp.inf, jax.lax.max, window, window, "VALID"
        )
        return jax.nn.relu(self.conv(pooled, "conv2"))

    def after_relu2(self, h):
        h = h if self.nchw else jnp.moveaxis(h, -1, 1)
        flat = h.reshape(len(h), -1)
        p = self.param
        hidden = jax.nn.relu(flat @ p["fc1.weight"].T + p["fc1.bias"][None])
        return hidden @ p["fc2.weight"].T + p["fc2.bias"][None]

    def __call__(self, x):
        return self.after_relu2(self.relu2(x))


_NAMES = [
    f"{layer}.{kind}"
    for layer in ("conv1", "conv2", "fc1", "fc2")
    for kind in ("weight", "bias")
]
