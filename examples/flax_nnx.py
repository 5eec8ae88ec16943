"""Introspective learning in a Flax NNX training loop: handwritten digits.

Look at `objective`: the network is trained with `train=True` but explained with
`train=False`. With batch statistics the explanation of an image would depend on the
other images of its batch, so the explained function uses the running statistics. It
must not update them either: an NNX module cannot be changed inside of the derivatives
that an explanation is made of.
"""

import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from introspect_jax import introspect, loss_fn


class Net(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm1 = nnx.BatchNorm(16, momentum=0.9, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm2 = nnx.BatchNorm(32, momentum=0.9, rngs=rngs)
        self.dense = nnx.Linear(2 * 2 * 32, 10, rngs=rngs)

    def __call__(self, x, train):
        x = nnx.relu(self.norm1(self.conv1(x), use_running_average=not train))
        x = nnx.relu(self.norm2(self.conv2(x), use_running_average=not train))
        return self.dense(x.reshape(len(x), -1))


@nnx.jit
def train_step(model, optimizer, x, y):
    def objective(model):
        # The three lines of introspective learning. The explanation comes first, since
        # training mode mixes this batch into the running statistics, in place.
        target = introspect(lambda x: model(x, train=False), x, y)
        logits = model(x, train=True)
        loss, _ = loss_fn(logits, y, target, weight=0.1)  # one loss per example
        return loss.mean()

    loss, grads = nnx.value_and_grad(objective)(model)
    optimizer.update(model, grads)
    return loss


def main(steps: int = 400, seed: int = 0) -> float:
    digits = load_digits()
    # Grey levels 0 to 16 to about zero mean and unit scale; floats, since the
    # explanations are derivatives with respect to the images.
    images = (digits.images[..., None].astype("float32") - 5) / 6
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    model = Net(nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)
    rng = np.random.default_rng(seed)
    for step in range(1, steps + 1):
        batch = rng.integers(len(x_train), size=64)
        loss = train_step(model, optimizer, x_train[batch], y_train[batch])
        if step % 100 == 0:
            print(f"step {step}: loss {loss:.3f}")
    accuracy = float((model(x_test, train=False).argmax(-1) == y_test).mean())
    print(f"test accuracy: {accuracy:.1%}")
    return accuracy


if __name__ == "__main__":
    main()
