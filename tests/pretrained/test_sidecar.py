"""The JSON file beside parameters: what it says is checked before it is used."""

import json
import re

import jax
import pytest
from etils import epath
from tiny import TINY, build_tiny

from introspect_jax import pretrained
from introspect_jax.errors import UserError
from introspect_jax.models import init_variables
from introspect_jax.pretrained import files, sidecar

CONTENT = {
    "network": {"name": TINY, "options": {}},
    "classes": ["a", "b", "c"],
    "image_shape": [10, 12, 3],
    "preprocessing": {"mean": [0.5], "std": [0.25], "resize": "bicubic"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = epath.Path(tmp_path_factory.mktemp("sidecar"))
    params, state = jax.jit(lambda key: init_variables(build_tiny(3), (8, 8, 3), key))(
        jax.random.key(0)
    )
    files.write(folder / "net.safetensors", {"params": params, **state})
    return folder


def load(folder, content, **flags):
    sidecar.write(folder / "net.safetensors", content)
    return pretrained.load(folder / "net.safetensors", **flags)


def test_it_takes_the_place_of_flags(folder):
    net = load(folder, CONTENT)
    assert net.class_names == ("a", "b", "c")
    assert net.image_shape == (10, 12, 3)
    assert net.preprocess.size == (10, 12)
    assert net.preprocess.mean == (0.5,)
    assert net.resize == "bicubic"
    how = CONTENT["preprocessing"] | {"size": [8, 9]}
    assert load(folder, CONTENT | {"preprocessing": how}).preprocess.size == (8, 9)


def test_what_is_explained_is_recorded(folder):
    assert load(folder, CONTENT).explain.explanation == "gradient"
    explain = {"explanation": "smoothgrad", "smoothgrad": {"num_samples": 3}}
    found = load(folder, CONTENT | {"explain": explain}).explain
    assert found.explanation == "smoothgrad"
    assert found.smoothgrad.num_samples == 3
    assert found.integrated_gradients.num_steps == 50


def test_options_are_of_the_recorded_network(folder):
    other = {"network": {"name": "tiny:absent", "options": {"width": 3}}}
    assert load(folder, CONTENT | other, model=TINY).class_names == ("a", "b", "c")


def test_flags_win(folder):
    net = load(folder, CONTENT, image_size=8, mean=[0.1, 0.2, 0.3], resize="bilinear")
    assert net.image_shape == (8, 8, 3)
    assert net.preprocess.size == (8, 8)
    assert net.preprocess.mean == (0.1, 0.2, 0.3)
    assert net.preprocess.std == (0.25,)
    assert net.resize == "bilinear"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"network": "resnet8"}, "'network' must be an object with"),
        ({"network": {"name": "resnet7"}}, "unknown network of"),
        ({"network": {"name": "resnet8", "options": {"dtype": 5}}}, "with the options"),
        ({"network": {"name": TINY, "options": {"num_classes": 3}}}, "num_classes"),
        ({"classes": []}, "'classes' must be a list of at least 2 names"),
        ({"image_shape": [8, 2**40, 3]}, "'image_shape' must be [h, w, c]"),
        ({"preprocessing": {"mean": [float("nan")]}}, "'preprocessing' must be"),
        ({"explain": {"explanation": "lime"}}, "'explain' cannot be used"),
        ({"explain": {"no field": 1}}, "'explain' cannot be used"),
        ({"classes": ["a", 2, "c"]}, "'classes' must be a list of at least 2 names"),
        ({"classes": ["a", "b"]}, "names 2 classes, and the parameters in"),
        ({"image_shape": [8, 8]}, "'image_shape' must be [h, w, c]"),
        ({"image_shape": [8, 0, 3]}, "'image_shape' must be [h, w, c]"),
        ({"dtype": "int8"}, "'dtype' must be uint8 or float32"),
        ({"preprocessing": {"mean": "0.5"}}, "'preprocessing' must be an object"),
        ({"preprocessing": {"resize": "nearest"}}, "'preprocessing' must be an object"),
        ({"preprocessing": {"size": [64, 64]}}, "sees [64, 64] pixels of images of"),
    ],
    ids=str,
)
def test_what_is_wrong_with_it_is_said(folder, change, says):
    with pytest.raises(UserError, match=re.escape(says)) as error:
        load(folder, CONTENT | change)
    assert "\n" not in str(error.value)


def test_it_is_of_these_parameters(folder):
    path = sidecar.write(folder / "net.safetensors", CONTENT)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"sha256": "0" * 64}))
    with pytest.raises(UserError, match="does not have the SHA-256"):
        pretrained.load(folder / "net.safetensors")
    for damaged in ("{", "[" * 100_000):
        path.write_text(damaged)
        with pytest.raises(UserError, match="is damaged"):
            pretrained.load(folder / "net.safetensors")
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        pretrained.load(folder / "net.safetensors")
    path.rmdir()
