"""Introspective learning in an Equinox training loop: handwritten digits.

Look at `objective`: the network is trained with dropout but explained without, through
`eqx.nn.inference_mode`, so that the explanations are those of the whole network. An
Equinox network sees one image; `jax.vmap` of it is the function of a batch to explain.
"""

import equinox as eqx
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from introspect_jax import introspect, loss_fn

OPTIMIZER = optax.adam(3e-3)


def make_model(key):
    keys = jax.random.split(key, 3)
    return eqx.nn.Sequential(
        [
            eqx.nn.Conv2d(1, 16, 3, stride=2, padding=1, key=keys[0]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Conv2d(16, 32, 3, stride=2, padding=1, key=keys[1]),
            eqx.nn.Lambda(jax.nn.relu),
            eqx.nn.Lambda(jax.numpy.ravel),
            eqx.nn.Dropout(0.2),
            eqx.nn.Linear(32 * 2 * 2, 10, key=keys[2]),
        ]
    )


@eqx.filter_jit
def train_step(model, opt_state, x, y, key):
    def objective(model):
        keys = jax.random.split(key, len(x))
        # The three lines of introspective learning.
        logits = jax.vmap(model)(x, key=keys)
        target = introspect(jax.vmap(eqx.nn.inference_mode(model)), x, y)
        loss, _ = loss_fn(logits, y, target, weight=0.1)  # one loss per example
        return loss.mean()

    loss, grads = eqx.filter_value_and_grad(objective)(model)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return eqx.apply_updates(model, updates), opt_state, loss


def main(steps: int = 400, seed: int = 0) -> float:
    digits = load_digits()
    # Channels first. Grey levels 0 to 16 to about zero mean and unit scale; floats,
    # since the explanations are derivatives with respect to the images.
    images = (digits.images[:, None].astype("float32") - 5) / 6
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    init_key, dropout_key = jax.random.split(jax.random.key(seed))
    model = make_model(init_key)
    opt_state = OPTIMIZER.init(eqx.filter(model, eqx.is_array))
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        batch = rng.integers(len(x_train), size=64)
        key = jax.random.fold_in(dropout_key, step)
        model, opt_state, loss = train_step(
            model, opt_state, x_train[batch], y_train[batch], key
        )
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    logits = jax.vmap(eqx.nn.inference_mode(model))(x_test)
    accuracy = float((logits.argmax(-1) == y_test).mean())
    print(f"test accuracy: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
