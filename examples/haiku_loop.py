"""Introspective learning in a Haiku training loop: handwritten digits.

Look at `objective`: the network is trained with `train=True` but explained with
`train=False`. With batch statistics the explanation of an image would depend on the
other images of its batch, so the explained function uses the running statistics
(`state`), and drops the state that it returns (`[0]`).
"""

import haiku as hk
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from introspect_jax import introspect, loss_fn


def net(x, train):
    for features in (16, 32):
        x = hk.Conv2D(features, 3, stride=2, with_bias=False)(x)
        x = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(
            x, is_training=train
        )
        x = jax.nn.relu(x)
    return hk.Linear(10)(hk.Flatten()(x))


init, apply = hk.without_apply_rng(hk.transform_with_state(net))
OPTIMIZER = optax.adam(3e-3)


@jax.jit
def train_step(params, state, opt_state, x, y):
    def objective(params):
        # The three lines of introspective learning.
        logits, new_state = apply(params, state, x, train=True)
        target = introspect(lambda x: apply(params, state, x, train=False)[0], x, y)
        loss, _ = loss_fn(logits, y, target, weight=0.1)  # one loss per example
        return loss.mean(), new_state

    (loss, new_state), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return optax.apply_updates(params, updates), new_state, opt_state, loss


def main(steps: int = 400, seed: int = 0) -> float:
    digits = load_digits()
    # Grey levels 0 to 16 to about zero mean and unit scale; floats, since the
    # explanations are derivatives with respect to the images.
    images = (digits.images[..., None].astype("float32") - 5) / 6
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    # Haiku creates the running statistics only in training mode.
    params, state = init(jax.random.key(seed), x_train[:64], train=True)
    opt_state = OPTIMIZER.init(params)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        batch = rng.integers(len(x_train), size=64)
        params, state, opt_state, loss = train_step(
            params, state, opt_state, x_train[batch], y_train[batch]
        )
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    logits, _ = apply(params, state, x_test, train=False)
    accuracy = float((logits.argmax(-1) == y_test).mean())
    print(f"test accuracy: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
