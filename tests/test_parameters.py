"""Files of parameters: what is written is read again; what does not fit is said."""

import pickle
import re

import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import safetensors.numpy
from etils import epath
from flax import nnx
from tiny import TINY, build_tiny

from introspect_jax import models, parameters, pretrained
from introspect_jax.errors import UserError
from introspect_jax.models import init_variables

SHAPE = (8, 8, 3)


@pytest.fixture(scope="module")
def variables():
    params, state = jax.jit(lambda key: init_variables(build_tiny(4), SHAPE, key))(
        jax.random.key(3)
    )
    return {"params": params, **state}


def same(found, wanted):
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def fit(arrays, classes=4):
    return parameters.fit(
        arrays, build_tiny(classes), SHAPE, "FILE", classes=(classes, "LABELS")
    )


@pytest.mark.parametrize("suffix", parameters.WRITERS)
def test_what_is_written_is_read_again(variables, tmp_path, suffix):
    path = epath.Path(tmp_path / f"net{suffix}")
    parameters.write(path, variables)
    arrays = parameters.read(path)
    assert "params.backbone.conv0.kernel" in arrays
    same(fit(arrays), variables)


def write_flax(path, variables):
    """As programs in Flax do: nested, parameters alone."""
    path.write_bytes(flax.serialization.to_bytes(variables))


def write_orbax(path, variables):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, variables)


def write_manager(path, variables):
    with ocp.CheckpointManager(path) as manager:
        manager.save(7, args=ocp.args.StandardSave(variables))
        manager.wait_until_finished()


@pytest.mark.parametrize("write", [write_flax, write_orbax, write_manager])
def test_files_of_other_programs(variables, tmp_path, write):
    write(tmp_path / "net", variables)
    within = "net/7" if write is write_manager else "net"
    same(fit(parameters.read(tmp_path / within)), variables)


def test_names_without_collections_and_other_precisions(variables, tmp_path):
    flat = parameters.flatten(variables)
    halves = {
        name.partition(".")[2]: array.astype(jnp.bfloat16)
        for name, array in flat.items()
    }
    safetensors.numpy.save_file(halves, tmp_path / "net")
    found = fit(parameters.read(tmp_path / "net"))
    rounded = jax.tree.map(lambda a: a.astype(jnp.bfloat16).astype(a.dtype), variables)
    same(found, rounded)


class Net(nnx.Module):
    def __init__(self, num_classes, rngs):
        self.norm = nnx.BatchNorm(3, rngs=rngs)
        self.dense = nnx.Linear(3, num_classes, rngs=rngs)

    def __call__(self, images):
        return self.dense(self.norm(images).mean((1, 2)))


def test_an_nnx_module_with_the_names_of_its_state(tmp_path):
    module = Net(4, nnx.Rngs(5))
    module.norm.mean[...] = jnp.array([0.1, 0.2, 0.3])
    state = nnx.to_pure_dict(nnx.state(module))
    write_flax(tmp_path / "net", state)
    (tmp_path / "names").write_text("a\nb\nc\nd")
    given = {"labels": tmp_path / "names", "image_size": 8}
    net = pretrained.load(tmp_path / "net", model="test_parameters:Net", **given)
    module.eval()
    images = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    np.testing.assert_allclose(net.logits_fn(images), module(images), rtol=1e-6)


def changed(flat, **changes):
    return {
        name: array for name, array in (flat | changes).items() if array is not None
    }


NAME = "params.backbone.conv1.kernel"


@pytest.mark.parametrize(
    ("change", "classes", "says"),
    [
        (
            {NAME: np.zeros((3, 3, 4, 9))},
            4,
            f"'{NAME}' has the shape (3, 3, 4, 9), and (3, 3, 4, 8) in the network",
        ),
        ({NAME: np.zeros((3, 3, 4, 8), int)}, 4, "has int64, and float32"),
        (
            {NAME: None, "params.backbone.conv2.kernel": np.zeros(1)},
            4,
            f"'{NAME}' missing (did you mean 'params.backbone.conv2.kernel'?); the "
            "network has no 'params.backbone.conv2.kernel'",
        ),
        ({NAME: np.full((3, 3, 4, 8), np.nan)}, 4, f"'{NAME}' has NaN or infinity"),
        ({}, 6, "LABELS names 6 classes, and the parameters in FILE are of 4"),
    ],
    ids=str,
)
def test_what_does_not_fit(variables, change, classes, says):
    arrays = changed(parameters.flatten(variables), **change)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        fit(arrays, classes)
    assert "\n" not in str(error.value)


def damaged(path, variables, suffix):
    parameters.write(epath.Path(path / f"net{suffix}"), variables)
    content = (path / f"net{suffix}").read_bytes()
    (path / "net").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path, v: None, "no file of parameters"),
        (lambda path, v: damaged(path, v, ".safetensors"), "cannot be read"),
        (lambda path, v: damaged(path, v, ".msgpack"), "cannot be read"),
        (lambda path, v: (path / "net").write_bytes(b""), "cannot be read"),
        (lambda path, v: (path / "net").write_bytes(b"\x01"), "holds int, not a tree"),
        (lambda path, v: (path / "net").mkdir(), "is not a checkpoint of Orbax"),
        (
            lambda path, v: (path / "net").write_bytes(pickle.dumps(print)),
            "which can run code",
        ),
    ],
    ids=str,
)
def test_files_that_cannot_be_read(variables, tmp_path, make, says):
    make(tmp_path, variables)
    with pytest.raises(UserError, match=says) as error:
        parameters.read(tmp_path / "net")
    assert "\n" not in str(error.value)


def test_a_network_with_its_labels(variables, tmp_path):
    """Without a sidecar, and with options of preprocessing."""
    parameters.write(epath.Path(tmp_path / "net.safetensors"), variables)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n\n")
    given = {"model": TINY, "labels": tmp_path / "names.txt", "image_size": 8}
    net = pretrained.load(
        tmp_path / "net.safetensors", **given, mean=[0.5], std=[0.25, 0.5, 1.0]
    )
    assert net.class_names == ("a", "b", "c", "d")
    pixels = np.full((2, 8, 8, 3), 255, np.uint8)
    inputs = net.preprocess(pixels)
    np.testing.assert_allclose(inputs[0, 0, 0], [2.0, 1.0, 0.5])
    own = models.make_logits_fn(build_tiny(4), variables)(inputs)
    np.testing.assert_array_equal(net.logits_fn(inputs), own)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": "absent.txt"}, "absent.txt' cannot be read"),
        ({"labels": "empty.txt"}, "at least 2 classes"),
        ({"labels": "object.json"}, "must be a JSON list of names"),
        ({"labels": None}, "--labels is missing"),
        ({"model": None}, "--model is missing"),
        ({"model": "tiny:absent"}, "nothing of that name"),
        ({"image_size": None}, "--image_size is missing"),
        ({"channels": 4}, "--channels must be 3"),
        ({"mean": [0.1, 0.2]}, "--mean has 2 values for 3 channels"),
        ({"mean": [127.0]}, r"--mean is of pixels in \[0, 1\]"),
        ({"std": [0.0]}, "--std must be above 0"),
        ({"resize": "lanczos"}, "unknown --resize 'lanczos'"),
    ],
    ids=str,
)
def test_what_is_wrong_of_a_network_is_said(
    variables, tmp_path, monkeypatch, change, says
):
    monkeypatch.chdir(tmp_path)
    parameters.write(epath.Path(tmp_path / "net.msgpack"), variables)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "object.json").write_text('{"a": 1}')
    given = {"model": TINY, "labels": "names.txt", "image_size": 8} | change
    with pytest.raises(UserError, match=says) as error:
        pretrained.load("net.msgpack", **given)
    assert "\n" not in str(error.value)


def test_damage_ends_in_one_line_or_changes_numbers(variables, tmp_path):
    """Whatever is flipped, cut or doubled, of each format."""
    generator = np.random.RandomState(0)
    read, refused = 0, []
    for suffix in parameters.WRITERS:
        whole = epath.Path(tmp_path / f"net{suffix}")
        parameters.write(whole, variables)
        content = np.frombuffer(whole.read_bytes(), np.uint8)
        for case in range(60):
            damaged = content.copy()
            if case % 3 == 0:
                damaged = damaged[: generator.randint(len(damaged))]
            elif case % 3 == 1:  # in the header, where names and shapes are
                damaged[generator.randint(200)] ^= 1 << generator.randint(8)
            else:
                start = generator.randint(len(damaged))
                damaged = np.concatenate([damaged[:start], damaged])
            (tmp_path / "net").write_bytes(damaged.tobytes())
            try:
                fit(parameters.read(tmp_path / "net"))
                read += 1
            except UserError as error:
                refused.append(str(error))
    assert [line for line in refused if "\n" in line] == []
    assert len(refused) > 80
    assert read > 2
