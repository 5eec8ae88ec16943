"""What holds for every explanation method, on small random networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec
from jax.test_util import check_grads

from introspect_jax import class_similarity, explain_fn
from introspect_jax.explain.attribution import METHODS
from introspect_jax.explain.baselines import make_baseline
from introspect_jax.explain.paths import RULES, quadrature
from introspect_jax.explain.similarity import SIMILARITIES, similarity_path
from introspect_jax.explain.targets import contrast, log_probability, top

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


@pytest.fixture
def net():
    return ConvNet()


def explain(net, target, method, **changes):
    return explain_fn(net, net.inputs, target, **net.options(method) | changes)


@pytest.mark.usefixtures("x64")
class TestExact:
    @pytest.mark.parametrize("method", LINEAR)
    def test_linear_in_the_cotangent(self, net, method):
        a, b = jax.random.normal(jax.random.key(1), (2, 4, 5))
        together = explain(net, a - 3 * b, method)
        apart = explain(net, a, method) - 3 * explain(net, b, method)
        np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("size", [2, 9])
    @pytest.mark.parametrize("method", [*SAMPLED, "smoothgrad_squared", "vargrad"])
    def test_chunks_change_nothing(self, net, method, size):
        whole = explain(net, "all", method)
        cut = explain(net, "all", method, chunk_size=size, class_chunk_size=2)
        np.testing.assert_allclose(cut, whole, rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("backend", ["cpu", "gpu"])
    @pytest.mark.parametrize("method", SAMPLED)
    def test_similarity_in_chunks(self, net, method, backend, monkeypatch):
        """Unrolled and scanned: the second is what accelerators do."""
        compute = functools.partial(
            class_similarity, net, net.inputs, LABELS, **net.options(method)
        )
        whole = compute()
        monkeypatch.setattr(jax, "default_backend", lambda: backend)
        for size in (1, 2, 3):
            cut = compute(chunk_size=size)
            np.testing.assert_allclose(cut, whole, rtol=1e-9, atol=1e-11)

    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_does_not_depend_on_how_the_batch_is_cut(self, net, method):
        whole = explain(net, LABELS, method)
        part = explain_fn(
            net,
            net.inputs[2:],
            LABELS[2:],
            index=jnp.array([2, 3]),
            **net.options(method),
        )
        np.testing.assert_allclose(part, whole[2:], rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize(
        ("similarity", "post"),
        [(similarity, {}) for similarity in SIMILARITIES]
        + [
            ("cosine", {"channel_sum": True}),
            ("cosine", {"pool": 2}),
            ("cosine", {"mask": jnp.arange(6.0).reshape(6, 1) > 2}),
            ("projection", {"center": True}),
            ("projection", {"nonlinearity": "absolute"}),
        ],
        ids=lambda value: (
            value if isinstance(value, str) else next(iter(value), "plain")
        ),
    )
    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_similarity_equals_all_explanations(self, net, method, post, similarity):
        if method == "grad_cam" and ("mask" in post):
            post = {"mask": jnp.arange(6.0).reshape(6, 1)}
        options = net.options(method) | post
        maps = explain_fn(net, net.inputs, "all", **options)
        maps = np.asarray(maps).reshape(4, 5, -1)
        own = maps[np.arange(4), LABELS]
        wanted = np.einsum("bkp,bp->bk", maps, own)
        if similarity == "projection":
            wanted = wanted / (own**2).sum(-1, keepdims=True)
        if similarity == "cosine":
            norms = np.linalg.norm(maps, axis=-1) * np.linalg.norm(
                own, axis=-1, keepdims=True
            )
            wanted = wanted / norms
        for chunks in ({}, {"class_chunk_size": 2}):
            found = class_similarity(
                net, net.inputs, LABELS, similarity=similarity, **options, **chunks
            )
            np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("method", ["gradient", *SAMPLED])
    def test_last_layer_norms(self, net, method):
        head = (
            lambda x: (net.maps(x) ** 2).mean((1, 2)),
            lambda h: h @ net.params[1],
            net.params[1],
        )
        compute = functools.partial(
            class_similarity,
            net,
            net.inputs,
            LABELS,
            similarity="cosine",
            **net.options(method),
        )
        found = compute(norms="last_layer", head=head)
        np.testing.assert_allclose(found, compute(), rtol=1e-9, atol=1e-10)

    def test_top_norms_are_exact_where_they_are_taken(self, net):
        compute = functools.partial(
            class_similarity, net, net.inputs, LABELS, similarity="cosine"
        )
        exact, dot = (
            compute(),
            class_similarity(net, net.inputs, LABELS, similarity="dot"),
        )
        np.testing.assert_allclose(compute(norms="top:5"), exact, rtol=1e-10)
        largest = np.argsort(-np.abs(dot), axis=-1)[:, :2]
        found = compute(norms="top:2")
        np.testing.assert_allclose(
            np.take_along_axis(np.asarray(found), largest, 1),
            np.take_along_axis(np.asarray(exact), largest, 1),
            rtol=1e-10,
        )
        assert not np.allclose(found, exact)

    def test_probes_converge_as_they_say(self, net):
        compute = functools.partial(
            class_similarity, net, net.inputs, LABELS, similarity="cosine"
        )
        exact = np.asarray(compute())
        for count in (16, 256):
            found = np.asarray(compute(norms=f"probes:{count}", key=KEY))
            # Estimated are the norms under the root: half the relative deviation.
            error = (found / exact - 1).std()
            assert 0.1 < error / (0.5 * np.sqrt(2 / count)) < 2.5
        again = compute(norms="probes:16", key=KEY, class_chunk_size=5)
        np.testing.assert_allclose(
            again, compute(norms="probes:16", key=KEY), rtol=1e-10
        )

    @pytest.mark.parametrize("rule", RULES)
    def test_completeness(self, net, rule):
        maps = explain(
            net, LABELS, "integrated_gradients", num_steps=400, rule=rule, baseline=0.3
        )
        logits = net(net.inputs) - net(jnp.full_like(net.inputs, 0.3))
        wanted = logits[jnp.arange(4), LABELS]
        error = np.abs(maps.sum((1, 2, 3)) - wanted).max() / np.abs(wanted).max()
        limits = {"gauss_legendre": 1e-10, "middle": 1e-4, "trapezoid": 1e-4}
        assert error < limits.get(rule, 2e-2)
        if rule in ("left", "right", "captum_trapezoid"):
            assert error > 1e-4  # biased, as said

    def test_expected_gradients_of_a_linear_function(self):
        kernel = jax.random.normal(KEY, (3, 4))
        inputs = jax.random.normal(jax.random.key(1), (2, 3))
        baselines = jnp.array([[1.0, -2.0, 0.5]])
        maps = explain_fn(
            lambda x: x @ kernel,
            inputs,
            1,
            method="expected_gradients",
            baselines=baselines,
            key=KEY,
        )
        np.testing.assert_allclose(
            maps, (inputs - baselines) * kernel[:, 1], rtol=1e-10
        )

    def test_noise_is_relative_to_the_range_or_absolute(self, net):
        """Of a quadratic, the mean noisy gradient differs by twice the mean noise."""
        inputs = net.inputs.at[0].multiply(10.0)

        def logits_fn(x):
            return (x**2).reshape(len(x), -1).sum(-1, keepdims=True) * jnp.ones(2)

        def spread(**options):
            maps = explain_fn(
                logits_fn,
                inputs,
                0,
                method="smoothgrad",
                num_samples=1,
                key=KEY,
                **options,
            )
            return np.asarray((maps - 2 * inputs) / 2).std((1, 2, 3))

        span = np.asarray(inputs.max((1, 2, 3)) - inputs.min((1, 2, 3)))
        np.testing.assert_allclose(spread(noise_level=0.1), 0.1 * span, rtol=0.3)
        np.testing.assert_allclose(spread(sigma=0.5), 0.5, rtol=0.3)

    @pytest.mark.optimised
    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_composes(self, net, method):
        options = net.options(method)

        def run(x, y):
            return class_similarity(net, x, y, similarity="projection", **options)

        eager = run(net.inputs, LABELS)
        jitted = jax.jit(run)(net.inputs, LABELS)
        np.testing.assert_allclose(jitted, eager, rtol=1e-9, atol=1e-11)
        twice = jax.vmap(run)(jnp.stack([net.inputs] * 2), jnp.stack([LABELS] * 2))
        np.testing.assert_allclose(twice[1], eager, rtol=1e-9, atol=1e-11)
        mesh = Mesh(np.asarray(jax.devices()[:2]), ("data",))
        data = PartitionSpec("data")
        index = jnp.arange(4)
        sharded = jax.jit(
            jax.shard_map(
                lambda x, y, i: class_similarity(
                    net, x, y, index=i, similarity="projection", **options
                ),
                mesh=mesh,
                in_specs=(data, data, data),
                out_specs=data,
            )
        )(net.inputs, LABELS, index)
        np.testing.assert_allclose(sharded, eager, rtol=1e-9, atol=1e-11)

    @pytest.mark.optimised
    @pytest.mark.parametrize("method", sorted(METHODS))
    def test_many_targets_under_jit(self, net, method):
        """Each as if it were the only one: XLA once compiled this to wrong numbers."""
        options = net.options(method)
        if method in SAMPLED:
            options["num_steps" if "num_steps" in options else "num_samples"] = 6

        def run(x, t):
            return explain_fn(net, x, t, **options)

        targets = jnp.stack([(LABELS + i) % 5 for i in range(4)], axis=1)
        together = jax.jit(run)(net.inputs, targets)
        apart = [jax.jit(run)(net.inputs, targets[:, i]) for i in range(4)]
        np.testing.assert_allclose(together, jnp.stack(apart, 1), rtol=1e-9, atol=1e-12)

    @pytest.mark.parametrize("chunk_size", [None, 2])
    @pytest.mark.parametrize("method", LINEAR)
    def test_differentiable_in_the_parameters(self, net, method, chunk_size):
        options = net.options(method) | {"chunk_size": chunk_size}

        def total(params):
            if method == "grad_cam":
                options["head"] = (
                    lambda x: net.maps(x, params),
                    lambda h: net.top(h, params),
                    None,
                )
            return class_similarity(
                lambda x: net(x, params), net.inputs, LABELS, **options
            )

        check_grads(total, (net.params,), order=1, modes=["rev"], rtol=1e-4)

    @pytest.mark.parametrize("method", ["gradient", "gradient_x_input", *SAMPLED])
    def test_custom_vjp(self, net, method):
        @jax.custom_vjp
        def clipped(x):
            return jnp.clip(x, -1, 1)

        clipped.defvjp(lambda x: (clipped(x), None), lambda _, g: (2 * g,))
        options = net.options(method)

        def logits_fn(x):
            return net(clipped(x))

        maps = np.asarray(explain_fn(logits_fn, net.inputs, "all", **options))
        maps = maps.reshape(4, 5, -1)
        wanted = np.einsum("bkp,bp->bk", maps, maps[np.arange(4), LABELS])
        found = class_similarity(
            logits_fn, net.inputs, LABELS, similarity="dot", **options
        )
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10)

    def test_targets(self, net):
        logits = np.asarray(net(net.inputs))
        every = np.asarray(explain(net, "all", "gradient"))
        order = np.argsort(-logits, axis=-1)[:, :3]
        np.testing.assert_allclose(
            explain(net, top(3), "gradient"), every[np.arange(4)[:, None], order]
        )
        rows = np.arange(4)
        np.testing.assert_allclose(
            explain(net, contrast(LABELS, 1), "gradient"),
            every[rows, LABELS] - every[:, 1],
            rtol=1e-9,
            atol=1e-12,
        )

    @pytest.mark.parametrize("target", [contrast(LABELS, 1), log_probability(LABELS)])
    def test_scores_are_complete_along_the_path(self, net, target):
        """A score of the logits is explained at every step, not at the end alone."""
        maps = explain(net, target, "integrated_gradients", num_steps=60, baseline=0.0)
        wanted = target(net(net.inputs)) - target(net(jnp.zeros_like(net.inputs)))
        np.testing.assert_allclose(maps.sum((1, 2, 3)), wanted, rtol=1e-7)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_bfloat16_network(net, method):
    def low(x):
        return net(x.astype(jnp.bfloat16))

    options = net.options(method)
    if method == "grad_cam":
        options["head"] = (
            lambda x: net.maps(x.astype(jnp.bfloat16)).astype(jnp.float32),
            lambda h: net.top(h.astype(jnp.bfloat16)),
            None,
        )
    compute = functools.partial(
        class_similarity, inputs=net.inputs, labels=LABELS, similarity="cosine"
    )
    found = compute(low, **options)
    assert found.dtype == jnp.float32
    wanted = compute(net, **net.options(method))
    np.testing.assert_allclose(found, wanted, atol=2e-2)


@pytest.mark.optimised
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
            method="integrated_gradients",
            num_steps=5,
        )

    apart = jnp.stack([run(targets[:, i]) for i in range(4)], axis=1)
    np.testing.assert_allclose(run(targets), apart, rtol=1e-4, atol=1e-6)


@pytest.mark.optimised
def test_memory_does_not_grow_with_the_samples():
    net = ConvNet()
    inputs = jax.random.normal(KEY, (8, 32, 32, 2))

    def temporaries(samples, **chunks):
        def run(x):
            return class_similarity(
                net,
                x,
                jnp.arange(8) % 5,
                method="smoothgrad",
                key=KEY,
                num_samples=samples,
                **chunks,
            )

        compiled = jax.jit(run).lower(inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(32) > 3 * temporaries(8)
    assert temporaries(32, chunk_size=4) < 1.3 * temporaries(8, chunk_size=4)


@pytest.mark.optimised
@pytest.mark.parametrize(
    ("method", "limit"), [("gradient", 0.35), ("integrated_gradients", 0.35)]
)
def test_memory_falls_with_the_classes_at_once(method, limit):
    kernel = jax.random.normal(KEY, (3, 3, 2, 8))
    top = jax.random.normal(jax.random.key(1), (8, 60))
    inputs = jax.random.normal(KEY, (4, 24, 24, 2))
    options = {"num_steps": 4} if method == "integrated_gradients" else {}

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
                method=method,
                similarity="cosine",
                class_chunk_size=class_chunk_size,
                **options,
            )

        compiled = jax.jit(run).lower(inputs).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(6) < limit * temporaries(None)


def test_quadrature_rules():
    for rule in RULES:
        nodes, weights = quadrature(rule, 7)
        assert len(nodes) == len(weights) == 7
        total = 6 / 7 if rule == "captum_trapezoid" else 1
        np.testing.assert_allclose(weights.sum(), total)
        assert nodes.min() >= 0
        assert nodes.max() <= 1
    nodes, weights = quadrature("gauss_legendre", 5)
    np.testing.assert_allclose((weights * nodes**9).sum(), 1 / 10)  # exact to 2n - 1


def test_baselines():
    images = jax.random.normal(KEY, (3, 8, 6, 2))
    index = jnp.arange(3)
    make = functools.partial(make_baseline, inputs=images, key=KEY, index=index)
    assert not make("zero").any()
    np.testing.assert_allclose(
        make("mean")[:, 0, 0], images.mean((1, 2)), rtol=1e-5, atol=1e-6
    )
    blurred = make("blur")
    assert blurred.shape == images.shape
    assert float(blurred.std()) < 0.4 * float(images.std())
    flat = make_baseline("blur", jnp.ones_like(images), None, index)
    np.testing.assert_allclose(flat, 1, rtol=1e-6)
    noise = make("uniform")
    assert (noise >= images.min((1, 2, 3), keepdims=True)).all()
    assert (noise <= images.max((1, 2, 3), keepdims=True)).all()
    np.testing.assert_allclose(make(0.5), 0.5)


def test_paths_can_be_asked_for():
    assert similarity_path() == "vjp and transpose"
    assert similarity_path(similarity="cosine") == "all classes"
    assert similarity_path(similarity="cosine", norms="last_layer") == "last layer"
    assert "8 probes" in similarity_path(similarity="cosine", norms="probes:8")
    assert "3 classes" in similarity_path(similarity="cosine", norms="top:3")
    assert similarity_path("vargrad", "dot") == "all classes"
    assert similarity_path(nonlinearity="absolute") == "all classes"


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "integrated_gradient"}, "did you mean 'integrated_gradients'"),
        ({"method": "smoothgrad"}, "give it key="),
        ({"method": "smoothgrad", "key": KEY, "num_samples": 0}, "at least 1"),
        ({"method": "smoothgrad", "noise": jnp.zeros((4, 3, 2))}, "noise must be"),
        ({"method": "integrated_gradients", "rule": "simpson"}, "quadrature rule"),
        ({"method": "integrated_gradients", "baseline": "black"}, "unknown baseline"),
        (
            {"method": "integrated_gradients", "baseline": jnp.zeros((3, 3))},
            "does not broadcast",
        ),
        ({"method": "gradient_x_input", "baseline": "uniform"}, "needs key="),
        ({"method": "expected_gradients", "key": KEY}, "needs baselines="),
        (
            {
                "method": "expected_gradients",
                "key": KEY,
                "baselines": jnp.zeros((2, 3)),
            },
            "baselines must be",
        ),
        ({"method": "grad_cam"}, "needs head="),
        ({"nonlinearity": "abs"}, "absolute"),
        ({"pool": 4}, "does not divide"),
        ({"mask": jnp.zeros((2, 4, 4, 6, 2))}, "broadcast"),
        ({"chunk_size": 0}, "at least 1"),
        ({"target": "top:9"}, "m in 1..5"),
        ({"target": contrast(0, 9)}, "0..4"),
    ],
    ids=str,
)
def test_bad_options(net, options, says):
    target = options.pop("target", 0)
    with pytest.raises(ValueError, match=says):
        explain_fn(net, net.inputs, target, **options)
