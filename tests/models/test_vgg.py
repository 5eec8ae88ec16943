import jax
import jax.numpy as jnp
import numpy as np
import pytest

from introspect_jax import class_similarity, models
from introspect_jax.errors import UserError
from introspect_jax.models import vgg

LABELS = jnp.array([0, 1, 2, 4])


def make(name="vgg11", classes=5, dtype=jnp.float32, remat=False, norm="batch"):
    config = vgg.default_config()
    config.norm = norm
    return vgg.make(name, classes, config, dtype=dtype, remat=remat)


def shapes(model, size=32):
    images = jnp.zeros((1, size, size, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=True))


def random_images(size=8):
    return jax.random.normal(jax.random.key(1), (4, size, size, 3))


@pytest.fixture
def narrow(monkeypatch):
    """Layers of 8 and 16 channels instead of up to 512."""
    monkeypatch.setattr(vgg, "_WIDTHS", (8, 8, 16, 16, 16))


def initial(model, size=8):
    """Variables with the statistics of a batch, as after training.

    With those of the initialisation, activations vanish before the last layer.
    """
    images = random_images(size)

    @jax.jit
    def init():
        variables = model.init(jax.random.key(0), images, train=True)
        if "batch_stats" not in variables:
            return variables
        zero = jax.tree.map(jnp.zeros_like, variables["batch_stats"])
        _, updates = model.apply(
            variables | {"batch_stats": zero},
            images,
            train=True,
            mutable=["batch_stats"],
        )
        # The momentum of the running averages is 0.9.
        batch_stats = jax.tree.map(lambda leaf: 10 * leaf, updates["batch_stats"])
        return variables | {"batch_stats": batch_stats}

    return init()


@pytest.mark.parametrize(
    ("name", "published", "layers", "biases"),
    [
        # torchvision's vgg11_bn and vgg16_bn, of 1000 classes.
        ("vgg11", 132_868_840, 8, 2_752),
        ("vgg16", 138_365_992, 13, 4_224),
    ],
)
def test_published_parameter_counts(name, published, layers, biases):
    params = shapes(make(name, classes=10))["params"]
    linear = [(512 * 7 * 7 + 1) * 4096, (4096 + 1) * 4096, (4096 + 1) * 1000]
    # Convolutions have no biases here: the normalisation's take their place.
    features = published - sum(linear) - biases
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert count == features + (512 + 1) * 10
    kernels = [leaf for leaf in jax.tree.leaves(params["backbone"]) if leaf.ndim == 4]
    assert len(kernels) == layers


def test_vgg16_has_14_7_million_parameters_on_cifar10():
    leaves = jax.tree.leaves(shapes(make("vgg16", classes=10))["params"])
    assert sum(leaf.size for leaf in leaves) == 14_724_042


@pytest.mark.parametrize("name", vgg.NAMES)
@pytest.mark.parametrize(
    ("size", "side"), [(2, 1), (8, 1), (16, 1), (32, 1), (63, 1), (64, 2), (224, 7)]
)
def test_pooling_stops_at_a_single_pixel(name, size, side):
    model = make(name)
    maps = jax.eval_shape(
        lambda variables, x: models.make_maps_fn(model, variables)(x),
        shapes(model, size),
        jnp.zeros((2, size, size, 3)),
    )
    assert maps.shape == (2, side, side, 512)


@pytest.mark.parametrize("size", [8, 16])
def test_small_images_are_told_apart(narrow, size):
    model = make()
    logits_fn = models.make_logits_fn(model, initial(model, size))
    logits = np.asarray(jax.jit(logits_fn)(random_images(size)))
    assert np.isfinite(logits).all()
    assert np.abs(np.diff(logits, axis=0)).max(axis=1).min() > 1e-3


def test_evaluation_does_not_depend_on_the_batch(narrow):
    model = make()
    logits_fn = jax.jit(models.make_logits_fn(model, initial(model)))
    images = random_images()
    np.testing.assert_allclose(
        logits_fn(images.at[1:].set(5.0))[0], logits_fn(images)[0], rtol=1e-5, atol=1e-6
    )


def test_group_normalisation_carries_no_statistics(narrow):
    model = make(norm="group")
    variables = initial(model)
    assert variables.keys() == {"params"}

    @jax.jit
    def apply(x):
        return [model.apply(variables, x, train=train) for train in (True, False)]

    trained, evaluated = apply(random_images())
    np.testing.assert_allclose(trained, evaluated, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_remat_changes_neither_numbers_nor_gradients(narrow, norm):
    variables = initial(make(norm=norm))
    results = []
    for remat in (False, True):
        model = make(norm=norm, remat=remat)
        assert jax.tree.structure(shapes(model, 8)) == jax.tree.structure(variables)

        def loss(variables, model=model):
            logits, updates = model.apply(
                variables, random_images(), train=True, mutable=["batch_stats"]
            )
            return jnp.sum(logits**2), updates

        results.append(jax.jit(jax.value_and_grad(loss, has_aux=True))(variables))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), *results
    )


def test_bfloat16_inside_float32_outside(narrow):
    low = make(dtype=jnp.bfloat16)
    variables, images = initial(make()), random_images()
    logits_fn = models.make_logits_fn(low, variables)
    text = jax.jit(logits_fn).lower(images).as_text()
    assert "tensor<4x8x8x8xbf16>" in text
    assert jax.eval_shape(logits_fn, images).dtype == jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes(low))} == {
        jnp.dtype("float32")
    }


def test_the_parts_make_up_the_network(narrow):
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
        ]

    logits, classified, linear = parts(random_images())
    np.testing.assert_allclose(classified, logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(linear, logits, rtol=1e-5, atol=1e-6)


def test_class_similarity_is_that_of_the_gradients(narrow):
    """The transpose of the backward pass of max-pooling is right."""
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

    wanted, found = compare(random_images(), LABELS)
    assert np.abs(wanted).min() > 1e-5
    for similarities in found:
        np.testing.assert_allclose(similarities, wanted, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"name": "vgg19"}, "unknown model 'vgg19'.*vgg11, vgg16"),
        ({"norm": "bach"}, "unknown model.vgg.norm 'bach'.*'batch'.*batch, group"),
    ],
)
def test_unknown_names(options, says):
    with pytest.raises(UserError, match=says):
        make(**options)
