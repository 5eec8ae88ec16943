"""The network of cifar10-airbench, by its paper and by hand."""

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath

from introspect_jax import class_similarity, models
from introspect_jax.errors import UserError
from introspect_jax.models import airbench
from introspect_jax.models.protocol import CONSTANTS
from introspect_jax.train.checkpoint import Checkpoints
from introspect_jax.train.state import state_sha256

LABELS = jnp.array([0, 1, 2, 4])


def make(**options):
    return models.build("airbench", 5, **({"width": 0.1} | options))


def shapes(model, size=32, channels=3):
    images = jnp.zeros((1, size, size, channels))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))


def correlated_images(size=8):
    """Neighbouring pixels and channels are alike, as in photographs."""
    noise = jax.random.normal(jax.random.key(1), (4, size + 1, size + 1, 3))
    smooth = noise[:, 1:, 1:] + noise[:, :-1, 1:] + noise[:, 1:, :-1]
    return smooth + 0.5 * smooth[..., :1]


def initial(model, size=8):
    """Variables as after one step: constants prepared, statistics of the images."""
    images = correlated_images(size)

    @jax.jit
    def init(constants):
        variables = model.init(jax.random.key(0), images, train=True)
        variables |= {CONSTANTS: constants}
        _, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return variables | updates

    return init(model.prepare(images))


@pytest.mark.parametrize("size", [8, 9])
@pytest.mark.parametrize("channels", [1, 3])
def test_outputs_of_the_whitening_layer_are_uncorrelated(size, channels):
    images = np.asarray(correlated_images(size))[..., :channels]
    kernel = airbench.whitening_kernel(images)
    assert kernel.shape == (2, 2, channels, 8 * channels)
    assert kernel.dtype == np.float32
    model = airbench.AirbenchBackbone(widths=())
    variables = {"params": {"whitening_bias": jnp.zeros(8 * channels)}}
    variables[CONSTANTS] = {"whitening": jnp.asarray(kernel)}
    outputs = model.apply(variables, images, train=False)
    assert outputs.shape == (4, size - 1, size - 1, 8 * channels)
    # The last half are the negatives, and GELU(y) - GELU(-y) = y.
    half = 4 * channels
    outputs = np.asarray(outputs[..., :half] - outputs[..., half:], np.float64)
    outputs = outputs.reshape(-1, half)
    found = outputs.T @ outputs / len(outputs)
    # l / (l + 5e-4) of the eigenvalues, which are above 0.05 here.
    np.testing.assert_allclose(found, np.eye(half), atol=0.01)
    assert (np.diag(found) < 1).all()
    assert (np.diff(np.diag(found)) < 1e-6).all()  # the largest eigenvalues first


def test_pixels_that_never_vary_are_not_blown_up():
    kernel = airbench.whitening_kernel(np.zeros((2, 3, 3, 1)))
    np.testing.assert_allclose(np.abs(kernel).max(), 5e-4**-0.5, rtol=1e-6)


def test_parameters_are_as_many_as_published():
    """1.97 million (Jordan 2024)."""
    found = shapes(models.build("airbench", 10))
    count = sum(leaf.size for leaf in jax.tree.leaves(found["params"]))
    # Biases of the whitening and of the blocks, convolutions, last layer.
    convs = 9 * (24 * 64 + 64**2 + 64 * 256 + 3 * 256**2)
    assert count == 24 + 2 * (64 + 256 + 256) + convs + 256 * 10
    assert round(count / 1e6, 2) == 1.97


@pytest.mark.parametrize(
    ("width", "widths"),
    [(1.0, (64, 256, 256)), (0.5, (32, 128, 128)), (0.01, (1, 3, 3))],
)
def test_width(width, widths):
    params = shapes(make(width=width))["params"]["backbone"]
    for i, found in enumerate(widths):
        assert params[f"block{i}_conv1"]["kernel"].shape == (3, 3, found, found)


@pytest.mark.parametrize(
    ("size", "channels", "side"), [(2, 1, 1), (8, 1, 1), (16, 3, 1), (32, 3, 3)]
)
def test_resolution_of_the_maps(size, channels, side):
    model = make()
    maps = jax.eval_shape(
        lambda variables, x: models.make_maps_fn(model, variables)(x),
        shapes(model, size, channels),
        jnp.zeros((2, size, size, channels)),
    )
    assert maps.shape == (2, side, side, 26)


@pytest.mark.parametrize("shape", [(1, 4, 4, 2), (2, 5, 7, 1)])
def test_max_pooling_is_that_of_flax(shape):
    x = jax.random.normal(jax.random.key(2), shape)

    def results(pool):
        return pool(x), jax.grad(lambda x: jnp.sum(pool(x) ** 3))(x)

    chex.assert_trees_all_close(
        results(airbench.max_pool),
        results(lambda x: nn.max_pool(x, (2, 2), (2, 2))),
        rtol=1e-6,
    )
    assert airbench.max_pool(jnp.zeros((1, 1, 9, 1))).shape == (1, 1, 9, 1)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (4, 4), (5, 3)])
def test_the_first_outputs_of_a_block_convolution_are_its_inputs(inputs, outputs):
    kernel = airbench._partial_identity(jax.random.key(0), (3, 3, inputs, outputs))
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, inputs))
    y = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    copied = min(inputs, outputs)
    np.testing.assert_allclose(y[..., :copied], x[..., :copied], rtol=1e-6)
    rest = np.asarray(kernel[..., copied:])
    bound = (9 * inputs) ** -0.5
    assert (np.abs(rest) <= bound).all()
    assert rest.size == 0 or np.abs(rest).max() > 0.9 * bound


def test_all_block_convolutions_start_as_partial_identities():
    model, images = make(), jnp.zeros((1, 8, 8, 3))
    params = jax.jit(lambda: model.init(jax.random.key(0), images)["params"])()
    kernels = [
        leaf["kernel"] for name, leaf in params["backbone"].items() if "conv" in name
    ]
    assert len(kernels) == 6
    for kernel in kernels:
        copied = min(kernel.shape[2:])
        np.testing.assert_array_equal(kernel[1, 1, :copied, :copied], np.eye(copied))


def test_biases_of_the_blocks_learn_64_times_as_fast():
    """A step of SGD moves the bias by 64 times its gradient."""
    model, images = make(), correlated_images()
    variables = initial(model)
    name = "block2_bias1"  # the last: its gradient reaches the logits at once

    def logits(bias, variables):
        """With `bias` added where the network adds its own, before the last GELU."""
        params = variables["params"]
        own = params["backbone"]
        shifted = own | {name: own[name] + bias / 8}
        params = params | {"backbone": shifted}
        return model.apply(variables | {"params": params}, images)

    def loss(bias, variables):
        return jnp.sum(jnp.sin(logits(bias, variables)))

    zero = jnp.zeros(26)
    by_bias = jax.jit(jax.grad(loss))(zero, variables)
    by_params = jax.jit(jax.grad(lambda p: loss(zero, variables | {"params": p})))(
        variables["params"]
    )
    update = -0.1 * by_params["backbone"][name]
    moved = variables["params"]["backbone"][name] + update
    # The value of the bias in the network is 8 times the parameter.
    np.testing.assert_allclose(8 * moved, -0.1 * 64 * by_bias, rtol=1e-4, atol=1e-7)
    assert np.abs(by_bias).max() > 1e-4


def test_the_bias_is_added_after_the_normalisation():
    """Of the last block: GELU(normalised + 8 p), whose maximum the features are."""
    model, images = make(), correlated_images()
    variables = initial(model)
    captured = model.apply(
        variables, images, capture_intermediates=True, mutable=["intermediates"]
    )[1]["intermediates"]["backbone"]
    own = variables["params"]["backbone"]
    own = own | {"block2_bias1": jnp.full(26, 0.25)}
    variables["params"] = variables["params"] | {"backbone": own}
    (normalised,) = captured["block2_norm1"]["__call__"]
    wanted = jax.nn.gelu(normalised + 2.0, approximate=False).max((1, 2))
    found = models.make_features_fn(model, variables)(images)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_constants_are_kept_to_the_bit(experiment, tmp_path):
    """Untouched by training in parts and on several devices, averages and resuming."""
    made = experiment(
        2,
        **{
            "model.name": "airbench",
            "model.airbench.width": 0.05,
            "method.name": "standard",
            "accumulation_steps": 3,
            "batch_size": 48,
            "average_decay": 0.9,
            "data.augment.flip": "alternating",
        },
    )
    pixels = made.loader.source.take(np.arange(1024))[0]
    wanted = airbench.whitening_kernel(np.asarray(made.evaluator.preprocess(pixels)))

    def steps(state, start, count):
        batches = made.batches(start)
        for _ in range(count):
            state, _ = made.train_step(state, next(batches))
        return state

    state = steps(made.init_state(), 0, 2)
    checkpoints = Checkpoints(epath.Path(tmp_path), 1)
    checkpoints.save(state, {"validation": None})
    checkpoints.wait()
    digest = state_sha256(steps(state, 2, 2))
    restored, _ = checkpoints.restore_newest(made.abstract_state())
    checkpoints.close()
    state = steps(restored, 2, 2)
    assert state_sha256(state) == digest
    for found in (state.model_state, state.average[1]):
        kernel = found[CONSTANTS]["backbone"]["whitening"]
        np.testing.assert_array_equal(kernel, wanted)
    assert np.abs(state.params["backbone"]["whitening_bias"]).max() > 0


def test_only_kernels_decay():
    """By the house's rule, which goes by the names of parameters."""
    found = shapes(make())["params"]
    names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(found)}
    biases = {f"block{i}_bias{j}" for i in range(3) for j in range(2)}
    assert names == {"kernel", "whitening_bias", *biases}


def test_the_parts_make_up_the_network():
    model = make()
    variables = initial(model)

    @jax.jit
    def parts(x):
        kernel, bias = models.last_layer(model, variables)
        maps = models.make_maps_fn(model, variables)(x)
        features = models.make_features_fn(model, variables)(x)
        return [
            models.make_logits_fn(model, variables)(x),
            models.make_classify_fn(model, variables)(maps),
            features @ kernel + bias,
            features @ variables["params"]["head"]["kernel"] / 9,
        ]

    logits, *others = parts(correlated_images())
    assert np.abs(np.diff(logits, axis=0)).max(axis=1).min() > 1e-3
    for found in others:
        np.testing.assert_allclose(found, logits, rtol=1e-5, atol=1e-6)


def test_evaluation_does_not_depend_on_the_batch():
    model, images = make(), correlated_images()
    logits_fn = jax.jit(models.make_logits_fn(model, initial(model)))
    np.testing.assert_allclose(
        logits_fn(images.at[1:].set(5.0))[0], logits_fn(images)[0], rtol=1e-5, atol=1e-6
    )


def test_remat_changes_neither_numbers_nor_gradients():
    variables = initial(make())
    results = []
    for remat in (False, True):
        model = make(remat=remat)
        assert jax.tree.structure(shapes(model, 8)) == jax.tree.structure(variables)

        def loss(params, model=model):
            logits, updates = model.apply(
                variables | {"params": params},
                correlated_images(),
                train=True,
                mutable=["batch_stats"],
            )
            return jnp.sum(logits**2), updates

        grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
        results.append(grad(variables["params"]))
    chex.assert_trees_all_close(*results, rtol=1e-3, atol=1e-5)


def test_bfloat16_inside_float32_outside():
    low, variables = make(dtype="bfloat16"), initial(make())
    logits_fn = models.make_logits_fn(low, variables)
    images = correlated_images()
    text = jax.jit(logits_fn).lower(images).as_text()
    for shape in ("4x7x7x24", "4x7x7x6", "4x1x1x26"):
        assert f"tensor<{shape}xbf16>" in text
    assert jax.eval_shape(logits_fn, images).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(low))} == {
        jnp.dtype("float32")
    }


def test_class_similarity_is_that_of_the_gradients():
    variables = initial(make())

    @jax.jit
    def compare(x, y):
        plain, remat = (
            models.make_logits_fn(make(remat=remat), variables)
            for remat in (False, True)
        )
        gradients = jax.vmap(jax.jacrev(lambda one: plain(one[None])[0]))(x)
        rows = gradients.reshape(*gradients.shape[:2], -1)
        inner = jnp.einsum("bkp,bp->bk", rows, rows[jnp.arange(len(y)), y])
        found = [class_similarity(f, x, y, similarity="dot") for f in (plain, remat)]
        return inner, found

    wanted, found = compare(correlated_images(), LABELS)
    assert np.abs(wanted).min() > 1e-7
    for similarities in found:
        np.testing.assert_allclose(similarities, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("width", [0.0, -1.0, 65.0])
def test_width_out_of_range(width):
    with pytest.raises(
        UserError, match=r"model\.airbench\.width must lie in \(0, 64\]"
    ):
        make(width=width)


def test_images_of_one_pixel():
    with pytest.raises(UserError, match="at least 2x2 pixels, got 1x3"):
        make().init(jax.random.key(0), jnp.zeros((1, 1, 3, 3)))
