"""Introspective learning in a plain JAX training loop: handwritten digits.

Look at `objective`: it is an ordinary objective in which three lines take the place of
`logits = apply(params, x)` and `loss = cross_entropy(logits, y)`.

This network computes the same in training and in evaluation. One with dropout or
BatchNorm must be explained in evaluation mode: see the other examples.
"""

import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from introspect_jax import introspect, loss_fn

OPTIMIZER = optax.adam(3e-3)


def init(key):
    keys = jax.random.split(key, 3)
    normal = jax.nn.initializers.he_normal()
    return {
        "conv1": normal(keys[0], (3, 3, 1, 16)),
        "conv2": normal(keys[1], (3, 3, 16, 32)),
        "dense": normal(keys[2], (2 * 2 * 32, 10)),
    }


def apply(params, x):
    for name in ("conv1", "conv2"):
        x = jax.lax.conv_general_dilated(
            x, params[name], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        x = jax.nn.relu(x)
    return x.reshape(len(x), -1) @ params["dense"]


@jax.jit
def train_step(params, opt_state, x, y):
    def objective(params):
        # The three lines of introspective learning.
        logits = apply(params, x)
        target = introspect(lambda x: apply(params, x), x, y)
        loss, _ = loss_fn(logits, y, target, weight=0.1)  # one loss per example
        return loss.mean()

    loss, grads = jax.value_and_grad(objective)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def main(steps: int = 400, seed: int = 0) -> float:
    digits = load_digits()
    # Grey levels 0 to 16 to about zero mean and unit scale; floats, since the
    # explanations are derivatives with respect to the images.
    images = (digits.images[..., None].astype("float32") - 5) / 6
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    params = init(jax.random.key(seed))
    opt_state = OPTIMIZER.init(params)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        batch = rng.integers(len(x_train), size=64)
        params, opt_state, loss = train_step(
            params, opt_state, x_train[batch], y_train[batch]
        )
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    accuracy = float((apply(params, x_test).argmax(-1) == y_test).mean())
    print(f"test accuracy: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
