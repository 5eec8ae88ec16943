"""Explanations in whole programs and in pieces, compiled as users compile them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conv_net import KEY, LABELS, SAMPLED, ConvNet, explain
from jax.sharding import Mesh, PartitionSpec
from marks import slow_but

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain import EXPLANATIONS, Cosine, IntegratedGradients, SmoothGrad

pytestmark = pytest.mark.optimised
NAMES = sorted(EXPLANATIONS)
# Of each kind one: without samples, of a layer, a path, a mean of products.
KINDS = ("gradient", "grad_cam", "integrated_gradients", "vargrad")


@pytest.fixture
def net():
    return ConvNet()


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize(
        ("name", "size"),
        slow_but(
            [("integrated_gradients", 2), ("vargrad", 9)],
            itertools.product([*SAMPLED, "smoothgrad_squared", "vargrad"], [2, 9]),
        ),
    )
    def test_chunks_change_nothing(self, net, name, size):
        whole = explain(net, "all", name)
        cut = explain(net, "all", name, chunk_size=size, class_chunk_size=2)
        np.testing.assert_allclose(cut, whole, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("name", "backend"),
        slow_but(
            [("smoothgrad", "cpu"), ("integrated_gradients", "gpu")],
            itertools.product(SAMPLED, ["cpu", "gpu"]),
        ),
    )
    def test_similarity_in_chunks(self, net, name, backend, monkeypatch):
        """Unrolled and scanned: the second is what accelerators do."""

        def compute(**chunks):
            @jax.jit
            def run(x):
                return class_similarity(
                    net, x, LABELS, net.explanation(name), key=KEY, **chunks
                )

            return run(net.inputs)

        whole = compute()
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        for size in (1, 2, 3):
            cut = compute(chunk_size=size)
            np.testing.assert_allclose(cut, whole, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("name", slow_but(KINDS, NAMES))
    def test_composes(self, net, name):
        explanation = net.explanation(name)

        def run(x, y):
            return class_similarity(net, x, y, explanation, key=KEY)

        alone = jax.jit(run)(net.inputs, LABELS)
        if name in ("gradient", "grad_cam"):
            eager = run(net.inputs, LABELS)
            np.testing.assert_allclose(alone, eager, rtol=1e-9, atol=1e-11)
        twice = jax.jit(jax.vmap(run))(
            jnp.stack([net.inputs] * 2), jnp.stack([LABELS] * 2)
        )
        np.testing.assert_allclose(twice[1], alone, rtol=1e-9, atol=1e-11)
        mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",))
        data = PartitionSpec("data")
        index = jnp.arange(4)
        sharded = jax.jit(
            jax.shard_map(
                lambda x, y, i: class_similarity(
                    net, x, y, explanation, index=i, key=KEY
                ),
                mesh=mesh,
                in_specs=(data, data, data),
                out_specs=data,
            )
        )(net.inputs, LABELS, index)
        np.testing.assert_allclose(sharded, alone, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("name", slow_but(KINDS, NAMES))
    def test_many_targets_under_jit(self, net, name):
        """Each as if it were the only one: XLA once compiled this to wrong numbers."""
        explanation = net.explanation(name, count=6)

        def run(x, t):
            return explain_fn(net, x, t, explanation, key=KEY)

        targets = jnp.stack([(LABELS + i) % 5 for i in range(4)], axis=1)
        together = jax.jit(run)(net.inputs, targets)
        apart = [jax.jit(run)(net.inputs, targets[:, i]) for i in range(4)]
        np.testing.assert_allclose(together, jnp.stack(apart, 1), rtol=1e-9, atol=1e-12)


def test_many_targets_of_a_wide_network_under_jit():
    """The shapes at which XLA 0.10.2 miscompiled a product followed by a sum."""
    kernel = jax.random.normal(KEY, (64, 10))
    inputs = jax.random.normal(jax.random.key(1), (16, 4, 4, 64))
    targets = jax.random.randint(jax.random.key(2), (16, 4), 0, 10)

    @jax.jit
    def run(t):
        return explain_fn(
            lambda x: jnp.tanh(x).mean((1, 2)) @ kernel,
            inputs,
            t,
            IntegratedGradients(num_steps=5),
        )

    apart = jnp.stack([run(targets[:, i]) for i in range(4)], axis=1)
    np.testing.assert_allclose(run(targets), apart, rtol=1e-4, atol=1e-6)


def test_memory_does_not_grow_with_the_samples():
    net = ConvNet()
    inputs = jax.random.normal(KEY, (8, 32, 32, 2))

    def temporaries(samples, **chunks):
        def run(x):
            return class_similarity(
                net,
                x,
                jnp.arange(8) % 5,
                SmoothGrad(num_samples=samples),
                key=KEY,
                **chunks,
            )

        compiled = jax.jit(run).lower(inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(32) > 3 * temporaries(8)
    assert temporaries(32, chunk_size=4) < 1.3 * temporaries(8, chunk_size=4)


@pytest.mark.parametrize(
    "explanation", ["gradient", IntegratedGradients(num_steps=4)], ids=["one", "four"]
)
def test_memory_falls_with_the_classes_at_once(explanation):
    kernel = jax.random.normal(KEY, (3, 3, 2, 8))
    top = jax.random.normal(jax.random.key(1), (8, 60))
    inputs = jax.random.normal(KEY, (4, 24, 24, 2))

    def logits_fn(x):
        spec = ("NHWC", "HWIO", "NHWC")
        maps = jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=spec
        )
        return jnp.tanh(maps).mean((1, 2)) @ top

    def temporaries(class_chunk_size):
        def run(x):
            return class_similarity(
                logits_fn,
                x,
                jnp.arange(4),
                explanation,
                Cosine(),
                class_chunk_size=class_chunk_size,
            )

        compiled = jax.jit(run).lower(inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(6) < 0.35 * temporaries(None)
