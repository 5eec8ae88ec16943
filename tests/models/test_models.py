import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from introspect_jax import class_similarity, models
from introspect_jax.errors import UserError


def parameters(name, classes, size, **options):
    model = models.build(name, classes, **options)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=True)
    )
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


@pytest.mark.parametrize(
    ("name", "classes", "size", "stem", "millions"),
    [
        # He et al. 2016, table 6
        ("resnet20", 10, 32, None, 0.27),
        ("resnet32", 10, 32, None, 0.46),
        ("resnet44", 10, 32, None, 0.66),
        ("resnet56", 10, 32, None, 0.85),
        ("resnet110", 10, 32, None, 1.73),
        # Zagoruyko and Komodakis 2016, tables 4 and 5
        ("wrn28_10", 10, 32, None, 36.5),
        ("wrn40_4", 10, 32, None, 8.9),
        # He et al. 2016 by the count of torchvision's documentation
        ("resnet18", 1000, 224, "imagenet", 11.7),
        ("resnet34", 1000, 224, "imagenet", 21.8),
        ("resnet50", 1000, 224, "imagenet", 25.6),
    ],
)
def test_published_parameter_counts(name, classes, size, stem, millions):
    options = {"stem": stem} if stem else {}
    count = parameters(name, classes, size, **options) / 1e6
    digits = len(str(millions).split(".")[1])
    assert round(count, digits) == millions


def test_small_resnets_have_no_parameters_in_their_shortcuts():
    model = models.build("resnet8", 10)
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)), train=True)
    )
    kernels = [
        path
        for path, _ in jax.tree_util.tree_leaves_with_path(shapes["params"])
        if path[-1].key == "kernel"
    ]
    assert len(kernels) == 8  # 6n + 2 layers, n = 1


@pytest.mark.parametrize(
    ("name", "stem", "size", "last"),
    [
        ("resnet8", None, 32, (8, 8, 64)),
        ("wrn10_2", None, 32, (8, 8, 128)),
        ("resnet18", "small", 32, (4, 4, 512)),
        ("resnet50", "imagenet", 224, (7, 7, 2048)),
    ],
)
def test_resolution_of_the_last_features(name, stem, size, last):
    model = models.build(name, 10, **{"stem": stem} if stem else {})
    images = jnp.zeros((2, size, size, 3))

    def backbone():
        variables = model.init(jax.random.key(0), images, train=True)
        return model.apply(
            variables, images, method=lambda m, x: m.backbone(x, train=False)
        )

    assert jax.eval_shape(backbone).shape == (2, *last)


@pytest.fixture(scope="module")
def network():
    model = models.build("resnet8", 5)
    images = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=True))()
    # Statistics as after training: no two channels alike.
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: leaf + 0.3 * jnp.arange(leaf.size) / leaf.size,
        variables["batch_stats"],
    )
    return model, variables, images


def test_bfloat16_inside_float32_outside(network):
    _, variables, images = network
    low = models.build("resnet8", 5, dtype="bfloat16")
    logits_fn = models.make_logits_fn(low, variables)
    text = jax.jit(logits_fn).lower(images).as_text()
    assert "tensor<4x8x8x16xbf16>" in text
    assert jax.eval_shape(logits_fn, images).dtype == jnp.float32
    shapes = jax.eval_shape(lambda: low.init(jax.random.key(0), images, train=True))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}


def test_similarities_in_bfloat16_are_those_of_float32_but_for_rounding(network):
    model, variables, images = network
    low = models.build("resnet8", 5, dtype="bfloat16")
    labels = jnp.array([0, 1, 2, 3])

    @jax.jit
    def compare(x, y):
        return [
            class_similarity(models.make_logits_fn(m, variables), x, y)
            for m in (model, low)
        ]

    wanted, found = compare(images, labels)
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - wanted).mean() < 2e-2


def test_explaining_touches_no_neighbours(network):
    model, variables, images = network
    logits_fn = models.make_logits_fn(model, variables)
    labels = jnp.array([0, 1, 2, 3])
    compute = jax.jit(lambda x, y: class_similarity(logits_fn, x, y))
    together = compute(images, labels)
    # The same example among strangers.
    others = images.at[1:].set(5.0)
    np.testing.assert_allclose(
        compute(others, labels)[0], together[0], rtol=1e-4, atol=1e-5
    )


def test_the_parts_make_up_the_network(network):
    model, variables, images = network
    logits = models.make_logits_fn(model, variables)(images)
    kernel, bias = models.last_layer(model, variables)
    assert kernel.shape == (64, 5)
    features = models.make_features_fn(model, variables)(images)
    np.testing.assert_allclose(features @ kernel + bias, logits, rtol=1e-4, atol=1e-5)
    maps = models.make_maps_fn(model, variables)(images)
    classify = models.make_classify_fn(model, variables)
    np.testing.assert_allclose(classify(maps), logits, rtol=1e-4, atol=1e-5)


def test_a_network_without_a_part_says_so():
    import flax.linen as nn

    with pytest.raises(UserError, match="the network Dense has no 'maps'"):
        models.make_maps_fn(nn.Dense(3), {})
    with pytest.raises(UserError, match="the network Dense has no 'last_layer'"):
        models.last_layer(nn.Dense(3), {})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "resnet21"}, "resnet20"),
        ({"name": "wrn28"}, "wrn<d>_<k>"),
        ({"name": "wrn27_1"}, "6n \\+ 4"),
        ({"name": "wrn28_0"}, "at least 1"),
        ({"name": "resnet18", "stem": "tiny"}, "small, imagenet"),
        ({"name": "resnet8", "stem": "small"}, "no option 'stem'.*: dtype, remat, nor"),
        ({"name": "resnet18", "dtype": "float16"}, "bfloat16"),
    ],
)
def test_unknown_networks(options, says):
    with pytest.raises(UserError, match=says):
        models.build(num_classes=10, **options)


@pytest.mark.parametrize(
    "name",
    slow_but(["resnet8", "wrn10_1"], ["resnet8", "wrn10_1", "resnet18", "resnet50"]),
)
def test_group_normalisation_sees_one_example(name):
    """The same logits beside others, in training and not; and nothing is carried."""
    model = models.build(name, 3, norm="group")
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    variables = jax.jit(lambda key: model.init(key, images[:1], train=True))(
        jax.random.key(1)
    )
    assert variables.keys() == {"params"}

    @jax.jit
    def apply(x):
        # `train` makes no difference: then it is one pass, compiled once.
        return [model.apply(variables, x, train=train) for train in (True, False)]

    together, evaluated = apply(images)
    beside_another, _ = apply(images.at[0].multiply(-3))
    np.testing.assert_allclose(together, evaluated, atol=1e-5)
    np.testing.assert_allclose(together[1:], beside_another[1:], atol=1e-5)
    assert np.abs(np.diff(together, axis=0)).max() > 1e-4


def test_unknown_norm():
    with pytest.raises(UserError, match=r"unknown model\.small_resnet\.norm 'bach'"):
        models.build("resnet8", 3, norm="bach")


def test_explanation_shares_the_pass_of_group_normalisation(experiment):
    """5 units to 3, a forward pass done once; with a BatchNorm it is 6 to 3."""
    flops = {}
    for norm in ("batch", "group"):
        for method in ("standard", "introspective"):
            options = {"model.small_resnet.norm": norm, "method.name": method}
            made = experiment(1, **options, **{"model.name": "resnet8"})
            state, batch = made.abstract_state(), next(made.batches(0))
            compiled = made.train_step.lower(state, batch).compile()
            flops[norm, method] = compiled.cost_analysis()["flops"]
    assert 1.9 < flops["batch", "introspective"] / flops["batch", "standard"] < 2.05
    assert 1.6 < flops["group", "introspective"] / flops["group", "standard"] < 1.75
