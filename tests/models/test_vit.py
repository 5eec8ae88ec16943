import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import class_similarity, models
from introspect_jax.errors import UserError
from introspect_jax.models import vit

TINY = {"patch": 4, "depth": 2, "width": 16, "heads": 2}
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
LABELS = jnp.array([0, 1, 2, 4])


def make(name="vit", classes=5, dtype=jnp.float32, remat=False, **options):
    config = vit.default_config()
    config.update(options)
    return vit.make(name, classes, config, dtype=dtype, remat=remat)


def shapes(model, height, width):
    images = jnp.zeros((1, height, width, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))


@pytest.fixture(scope="module")
def variables():
    """Of all networks of the sizes `TINY`, with biases that are not zero."""
    model = make(**TINY)
    made = jax.jit(lambda: model.init(jax.random.key(0), IMAGES, train=True))()
    draw = np.random.RandomState(2).randn
    return jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * draw(*leaf.shape), leaf.dtype), made
    )


def train_logits(model, variables, seed=3, rngs=("dropout",)):
    @jax.jit
    def apply(key):
        return model.apply(variables, IMAGES, train=True, rngs=dict.fromkeys(rngs, key))

    return np.asarray(apply(jax.random.key(seed)))


@pytest.mark.parametrize(
    ("name", "published", "width"),
    [
        # torchvision's vit_b_16, timm's deit_tiny_patch16_224, deit_small_patch16_224
        ("vit_b16", 86_567_656, 768),
        ("vit_ti16", 5_717_416, 192),
        ("vit_s16", 22_050_664, 384),
    ],
)
def test_published_parameter_counts_less_the_class_token(name, published, width):
    variables = shapes(make(name, classes=1000), 224, 224)
    count = sum(leaf.size for leaf in jax.tree.leaves(variables))
    # The token itself and its position embedding.
    assert count == published - 2 * width


@pytest.mark.parametrize("name", vit.NAMES)
def test_listed_names_keep_the_grid_of_patches(name):
    model = make(name)
    patch, width = model.backbone.patch, model.backbone.width
    params = shapes(model, 2 * patch, 3 * patch)["params"]
    assert params["backbone"]["position"].shape == (1, 2, 3, width)
    maps = jax.eval_shape(
        lambda variables, x: models.make_maps_fn(model, variables)(x),
        {"params": params},
        jnp.zeros((2, 2 * patch, 3 * patch, 3)),
    )
    assert maps.shape == (2, 2, 3, width)


def test_options_override_the_name():
    backbone = make("vit_s4", depth=3, heads=4).backbone
    assert (backbone.patch, backbone.width) == (4, 384)
    assert (backbone.depth, backbone.heads) == (3, 4)


def test_weight_decay_finds_kernels_only_in_linear_layers():
    params = shapes(make(**TINY), 8, 8)["params"]
    ranks = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        ranks.setdefault(path[-1].key, set()).add(leaf.ndim)
    assert ranks == {"kernel": {2, 4}, "bias": {1}, "scale": {1}, "position": {4}}


@pytest.mark.parametrize("rates", [{"dropout": 0.3}, {"stochastic_depth": 0.5}])
def test_training_depends_on_the_key_alone(variables, rates):
    model = make(**TINY, **rates)
    first = train_logits(model, variables)
    np.testing.assert_array_equal(train_logits(model, variables), first)
    assert np.abs(train_logits(model, variables, seed=4) - first).max() > 1e-3


def test_evaluation_ignores_the_rates_and_needs_no_key(variables):
    noisy = make(**TINY, dropout=0.3, stochastic_depth=0.5)
    evaluated = jax.jit(models.make_logits_fn(noisy, variables))(IMAGES)
    # Nor does training without rates, which is the same pass.
    trained = train_logits(make(**TINY), variables, rngs=())
    np.testing.assert_allclose(evaluated, trained, rtol=1e-5, atol=1e-6)


def captured(model, variables, images, train):
    """Output of every named layer of the backbone."""

    @jax.jit
    def apply():
        _, state = model.apply(
            variables,
            images,
            train=train,
            rngs={"dropout": jax.random.key(5)},
            capture_intermediates=True,
        )
        return state["intermediates"]["backbone"]

    outputs = apply()
    outputs.pop("__call__")
    return {name: np.asarray(output["__call__"][0]) for name, output in outputs.items()}


def test_stochastic_depth_drops_whole_branches_of_single_examples(variables):
    # In a single block, the rate is that of the last.
    model = make(**TINY | {"depth": 1}, stochastic_depth=0.75)
    images = jax.random.normal(jax.random.key(6), (24, 8, 8, 3))
    trained = captured(model, variables, images, train=True)
    evaluated = captured(model, variables, images, train=False)
    kept = []
    for branch in ("block0_out", "block0_mlp"):
        output = trained[f"{branch}_depth"]
        alive = (output != 0).any(axis=(1, 2))
        assert (output[alive] != 0).all()
        assert 0 < alive.sum() < len(images)
        kept.append(alive)
    assert (kept[0] != kept[1]).any()
    # The attention sees what it sees in evaluation, so its output is known.
    np.testing.assert_allclose(
        trained["block0_out_depth"],
        evaluated["block0_out"] * (kept[0] / 0.25)[:, None, None],
        rtol=1e-5,
        atol=1e-6,
    )


def test_the_rate_of_stochastic_depth_rises_linearly():
    model = make(patch=2, depth=3, width=8, heads=1, stochastic_depth=0.8)
    images = jax.random.normal(jax.random.key(7), (600, 2, 2, 1))
    made = jax.jit(lambda: model.init(jax.random.key(0), images[:1], train=True))()
    layers = captured(model, made, images, train=True)
    for branch in ("out", "mlp"):
        dropped = [
            (layers[f"block{block}_{branch}_depth"] == 0).all(axis=(1, 2)).mean()
            for block in range(3)
        ]
        # Three standard errors of a share of 600 are 0.06 at most.
        np.testing.assert_allclose(dropped, [0, 0.4, 0.8], atol=0.06)
        assert dropped[0] == 0


def test_dropout_keeps_the_mean_of_the_embedding(variables):
    model = make(**TINY, dropout=0.25)
    images = jnp.broadcast_to(IMAGES[:1], (400, 8, 8, 3))
    trained = captured(model, variables, images, train=True)["embedding_dropout"]
    evaluated = captured(model, variables, images, train=False)["embedding_dropout"]
    alive = trained != 0
    assert abs(alive.mean() - 0.75) < 0.01
    np.testing.assert_allclose(trained[alive], evaluated[alive] / 0.75, rtol=1e-5)


def test_attention_is_that_of_flax(variables):
    layers = captured(make(**TINY), variables, IMAGES, train=False)
    params = variables["params"]["backbone"]
    heads = {
        part: {
            "kernel": params[f"block0_{part}"]["kernel"].reshape(16, 2, 8),
            "bias": params[f"block0_{part}"]["bias"].reshape(2, 8),
        }
        for part in ("query", "key", "value")
    }
    out = params["block0_out"] | {
        "kernel": params["block0_out"]["kernel"].reshape(2, 8, 16)
    }
    attention = nn.MultiHeadDotProductAttention(num_heads=2)
    wanted = jax.jit(attention.apply)(
        {"params": heads | {"out": out}}, layers["block0_norm0"]
    )
    np.testing.assert_allclose(layers["block0_out"], wanted, rtol=1e-4, atol=1e-5)


def test_evaluation_does_not_depend_on_the_batch(variables):
    logits_fn = jax.jit(models.make_logits_fn(make(**TINY), variables))
    together = logits_fn(IMAGES)
    beside_others = logits_fn(IMAGES.at[1:].set(5.0))
    np.testing.assert_allclose(beside_others[0], together[0], rtol=1e-5, atol=1e-6)
    assert np.abs(np.diff(together, axis=0)).max() > 1e-2


def test_remat_changes_neither_numbers_nor_gradients(variables):
    results = []
    for remat in (False, True):
        model = make(**TINY, dropout=0.3, stochastic_depth=0.5, remat=remat)
        made = jax.eval_shape(
            lambda model=model: model.init(jax.random.key(0), IMAGES, train=True)
        )
        assert jax.tree.structure(made) == jax.tree.structure(variables)

        def loss(variables, key, model=model):
            rngs = {"dropout": key}
            logits = model.apply(variables, IMAGES, train=True, rngs=rngs)
            return jnp.sum(logits**2)

        results.append(jax.jit(jax.value_and_grad(loss))(variables, jax.random.key(0)))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results
    )


def test_bfloat16_inside_float32_outside(variables):
    low = make(**TINY, dtype=jnp.bfloat16)
    logits_fn = models.make_logits_fn(low, variables)
    text = jax.jit(logits_fn).lower(IMAGES).as_text()
    assert "tensor<4x4x16xbf16>" in text
    # The attention's softmax.
    exponentials = re.findall(r"stablehlo.exponential .*: tensor<4x2x4x4x(\w+)>", text)
    assert set(exponentials) == {"f32"}
    assert jax.eval_shape(logits_fn, IMAGES).dtype == jnp.float32
    leaves = jax.tree.leaves(shapes(low, 8, 8))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    wanted = jax.jit(models.make_logits_fn(make(**TINY), variables))(IMAGES)
    assert 0 < np.abs(jax.jit(logits_fn)(IMAGES) - wanted).max() < 0.1


def test_the_parts_make_up_the_network(variables):
    model = make(**TINY)

    @jax.jit
    def parts(x):
        kernel, bias = models.last_layer(model, variables)
        maps = models.make_maps_fn(model, variables)(x)
        features = models.make_features_fn(model, variables)(x)
        return [
            models.make_logits_fn(model, variables)(x),
            models.make_classify_fn(model, variables)(maps),
            features @ kernel + bias,
        ]

    logits, classified, linear = parts(IMAGES)
    np.testing.assert_allclose(classified, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear, logits, rtol=1e-5, atol=1e-6)


def test_class_similarity_is_that_of_the_gradients(variables):
    @jax.jit
    def compare(x, y):
        plain, remat = (
            models.make_logits_fn(make(**TINY, remat=remat), variables)
            for remat in (False, True)
        )
        gradients = jax.vmap(jax.jacrev(lambda one: plain(one[None])[0]))(x)
        rows = gradients.reshape(*gradients.shape[:2], -1)
        inner = jnp.einsum("bkp,bp->bk", rows, rows[jnp.arange(len(y)), y])
        found = [class_similarity(f, x, y, similarity="dot") for f in (plain, remat)]
        return inner, found

    wanted, found = compare(IMAGES, LABELS)
    assert np.abs(wanted).min() > 1e-5
    for similarities in found:
        np.testing.assert_allclose(similarities, wanted, rtol=1e-3, atol=1e-6)


def test_second_derivatives_match_finite_differences(variables, x64):
    """Training through the explanation, in float64."""
    model = make(**TINY | {"depth": 1}, dtype=jnp.float64)
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables)
    draw = np.random.RandomState(8).randn
    direction = jax.tree.map(lambda leaf: draw(*leaf.shape), wide)

    @jax.jit
    def along(t):
        def loss(t):
            moved = jax.tree.map(lambda leaf, d: leaf + t * d, wide, direction)
            logits_fn = models.make_logits_fn(model, moved)
            x = IMAGES.astype(jnp.float64)
            return jnp.sum(jnp.sin(class_similarity(logits_fn, x, LABELS)))

        return jax.value_and_grad(loss)(t)

    step = 1e-5
    numeric = (along(step)[0] - along(-step)[0]) / (2 * step)
    np.testing.assert_allclose(along(0.0)[1], numeric, rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "vit_l16"}, "unknown model 'vit_l16'.*vit_b16"),
        ({"name": "vit_s0"}, "unknown model 'vit_s0'"),
        ({"patch": -1}, "model.vit.patch must be between 1 and 1024, .*got -1"),
        ({"depth": 1001}, "model.vit.depth must be between 1 and 1000, .*got 1001"),
        ({"depth": -1}, "model.vit.depth must be"),
        ({"width": 10**6}, "model.vit.width must be"),
        ({"heads": 10**6}, "model.vit.heads must be"),
        ({"heads": 5}, "model.vit.width must be divisible by .*got 192 and 5"),
        ({"dropout": 1.0}, r"model.vit.dropout must be in \[0, 1\), got 1.0"),
        ({"dropout": float("nan")}, "model.vit.dropout must be .*got nan"),
        ({"stochastic_depth": -0.1}, "model.vit.stochastic_depth must be"),
    ],
)
def test_options_out_of_range(options, says):
    with pytest.raises(UserError, match=says):
        make(**options)


@pytest.mark.parametrize(("height", "width"), [(8, 10), (10, 8), (2, 2)])
def test_images_that_the_patches_do_not_divide(height, width):
    with pytest.raises(
        UserError, match=f"images of {height}x{width} and patches of 4.*model.vit.patch"
    ):
        shapes(make(**TINY), height, width)
