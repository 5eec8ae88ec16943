"""Introspective learning in a Flax Linen training loop: handwritten digits.

Look at `objective`: the network is trained with `train=True` but explained with
`train=False`. With batch statistics the explanation of an image would depend on the
other images of its batch, so the explained function uses the running statistics.
"""

import flax.linen as nn
import jax
import numpy as np
import optax
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from introspect_jax import introspect, loss_fn


class Net(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        for features in (16, 32):
            x = nn.Conv(features, (3, 3), strides=2, use_bias=False)(x)
            x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            x = nn.relu(x)
        return nn.Dense(10)(x.reshape(len(x), -1))


MODEL = Net()
OPTIMIZER = optax.adam(3e-3)


@jax.jit
def train_step(params, stats, opt_state, x, y):
    def objective(params):
        variables = {"params": params, "batch_stats": stats}
        # The three lines of introspective learning.
        logits, new = MODEL.apply(variables, x, train=True, mutable="batch_stats")
        target = introspect(lambda x: MODEL.apply(variables, x, train=False), x, y)
        loss, _ = loss_fn(logits, y, target, weight=0.1)  # one loss per example
        return loss.mean(), new["batch_stats"]

    (loss, new_stats), grads = jax.value_and_grad(objective, has_aux=True)(params)
    updates, opt_state = OPTIMIZER.update(grads, opt_state)
    return optax.apply_updates(params, updates), new_stats, opt_state, loss


def main(steps: int = 400, seed: int = 0) -> float:
    digits = load_digits()
    # Grey levels 0 to 16 to about zero mean and unit scale; floats, since the
    # explanations are derivatives with respect to the images.
    images = (digits.images[..., None].astype("float32") - 5) / 6
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    variables = MODEL.init(jax.random.key(seed), x_train[:1], train=False)
    params, stats = variables["params"], variables["batch_stats"]
    opt_state = OPTIMIZER.init(params)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        batch = rng.integers(len(x_train), size=64)
        params, stats, opt_state, loss = train_step(
            params, stats, opt_state, x_train[batch], y_train[batch]
        )
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    variables = {"params": params, "batch_stats": stats}
    logits = MODEL.apply(variables, x_test, train=False)
    accuracy = float((logits.argmax(-1) == y_test).mean())
    print(f"test accuracy: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
