"""Two explanations of your own, used like the built-in ones: handwritten digits.

`linear` says whether maps are linear in the output cotangent, `bind` returns the map.
Printed: deletion area; how often the class most like the label is the runner-up.
"""

import dataclasses

import jax
import jax.numpy as jnp
from sklearn import datasets, neural_network

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import Explanation, GradientSum, Map, baselines, metrics


@dataclasses.dataclass(frozen=True, eq=False)
class PathGradient(Explanation):
    """`A c = mean_i J(b + t_i (x - b))^T c` from a blurred image b to x."""

    num_steps: int = 16
    linear = True

    def bind(self, problem):
        x, start = problem.inputs, baselines.make_baseline("blur", problem)

        def point(i):  # where the i-th gradient is taken, and its multiplier
            return start + (i + 0.5) / self.num_steps * (x - start), jnp.ones_like(x)

        return GradientSum(problem, point, self.num_steps, scale=1 / self.num_steps)


@dataclasses.dataclass(frozen=True, eq=False)
class AbsoluteSmoothGrad(Explanation):
    """`mean_i |J(x + e_i)^T c|`, the default of captum's `NoiseTunnel(Saliency)`."""

    sigma: float = 3.0  # standard deviation of e_i, in units of the inputs
    num_samples: int = 16
    linear = False

    def bind(self, problem):
        x, n, keys = problem.inputs, self.num_samples, problem.example_keys("noise")
        e = jax.vmap(lambda k: jax.random.normal(k, (n, *x.shape[1:])), 0, 1)(keys)

        def maps(cotangents):  # [m, batch, classes] -> [m, batch, ...]
            def sample(at):
                return jnp.abs(jax.vmap(jax.vjp(problem.logits, at)[1])(cotangents)[0])

            size = problem.chunk_size or n  # samples at once
            return jax.lax.map(sample, x + self.sigma * e, batch_size=size).mean(0)

        return Map(problem, maps)


def main():
    x, y = datasets.load_digits(return_X_y=True)  # grey levels 0 to 16
    mlp = neural_network.MLPClassifier(64, batch_size=64, tol=0.01, random_state=0)
    (w1, w2), (b1, b2) = mlp.fit(x[32:], y[32:]).coefs_, mlp.intercepts_

    def logits_fn(x):
        return jax.nn.relu(x.reshape(len(x), -1) @ w1 + b1) @ w2 + b2

    x, y = x[:32].reshape(-1, 8, 8, 1).astype("float32"), y[:32]
    options = {"key": jax.random.key(0), "chunk_size": 8, "class_chunk_size": 5}

    @jax.jit  # explanations are pytrees
    def measure(explanation):
        maps = explain_fn(logits_fn, x, y, explanation, **options)
        scores = {"deletion": metrics.deletion(logits_fn, x, y, maps).mean()}
        for name in ("projection", "cosine"):
            s = class_similarity(logits_fn, x, y, explanation, name, **options)
            scores[name] = (s.argsort()[:, -2] == logits_fn(x).argsort()[:, -2]).mean()
        return scores

    return logits_fn, x, y, [measure(PathGradient()), measure(AbsoluteSmoothGrad())]


if __name__ == "__main__":
    print(*main()[-1], sep="\n")
