"""The JSON file beside parameters: what it says is checked before it is used."""

import json
import re

import jax
import pytest
from etils import epath
from tiny import TINY, build_tiny

from introspect_jax import parameters, pretrained, sidecar
from introspect_jax.errors import UserError
from introspect_jax.models import init_variables

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
    parameters.write(folder / "net.safetensors", {"params": params, **state})
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
        ({"network": {"name": "resnet7"}}, "resnet8"),
        ({"classes": ["a", 2, "c"]}, "'classes' must be a list of names"),
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
    path.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        pretrained.load(folder / "net.safetensors")
