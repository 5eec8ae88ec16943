"""Files of parameters: what is written is read again; what does not fit is said."""

import pickle
import re

import flax.linen as nn
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

from introspect_jax import models, pretrained
from introspect_jax.errors import UserError
from introspect_jax.models import init_variables
from introspect_jax.pretrained import files
from introspect_jax.pretrained.fit import fit as fit_to

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
    return fit_to(
        arrays, build_tiny(classes), SHAPE, "FILE", classes=(classes, "LABELS")
    )


@pytest.mark.parametrize("suffix", files.WRITERS)
def test_what_is_written_is_read_again(variables, tmp_path, suffix):
    path = epath.Path(tmp_path / f"net{suffix}")
    files.write(path, variables)
    arrays = files.read(path)
    assert "params.backbone.conv0.kernel" in arrays
    same(fit(arrays), variables)


class Mixed(nn.Module):
    """Variables of other collections and types than those of most networks."""

    @nn.compact
    def __call__(self, images, train):
        kernel = self.param("kernel", nn.initializers.ones, (3, 4), jnp.bfloat16)
        mask = self.variable("constants", "mask", lambda: jnp.zeros(4, bool))
        count = self.variable("constants", "count", lambda: jnp.zeros((), jnp.int32))
        logits = images.mean((1, 2)).astype(kernel.dtype) @ kernel
        return jnp.where(mask.value, count.value, logits)


@pytest.mark.parametrize("suffix", files.WRITERS)
def test_collections_and_types(tmp_path, suffix):
    wanted = {
        "params": {"kernel": jnp.arange(12, dtype=jnp.bfloat16).reshape(3, 4)},
        "constants": {
            "mask": jnp.array([True, False, True, False]),
            "count": jnp.array(7, jnp.int32),
        },
    }
    path = epath.Path(tmp_path / f"net{suffix}")
    files.write(path, wanted)
    found = fit_to(files.read(path), Mixed(), SHAPE, "FILE", classes=(4, "LABELS"))
    same(found, wanted)
    assert jax.tree.map(lambda a: a.dtype, found) == jax.tree.map(
        lambda a: a.dtype, wanted
    )


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
    same(fit(files.read(tmp_path / within)), variables)


def test_names_without_collections_and_other_precisions(variables, tmp_path):
    flat = files.flatten(variables)
    halves = {
        name.partition(".")[2]: array.astype(jnp.bfloat16)
        for name, array in flat.items()
    }
    safetensors.numpy.save_file(halves, tmp_path / "net")
    found = fit(files.read(tmp_path / "net"))
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
    state = nnx.state(module)
    write_flax(tmp_path / "net", nnx.to_pure_dict(state))
    write_orbax(tmp_path / "orbax", state)
    (tmp_path / "names").write_text("a\nb\nc\nd")
    given = {"labels": tmp_path / "names", "image_size": 8}
    module.eval()
    images = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    for name in ("net", "orbax"):
        net = pretrained.load(tmp_path / name, model="test_files:Net", **given)
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
        ({NAME: np.full((3, 3, 4, 8), 1e300)}, 4, "infinity in float32"),
        ({"opt_state.0.count": np.zeros(())}, 4, "a whole training state?"),
        ({}, 6, "LABELS names 6 classes, and the parameters in FILE are of 4"),
    ],
    ids=["shape", "kind", "name", "NaN", "range", "training state", "classes"],
)
def test_what_does_not_fit(variables, change, classes, says):
    arrays = changed(files.flatten(variables), **change)
    with pytest.raises(UserError, match=re.escape(says)) as error:
        fit(arrays, classes)
    assert "\n" not in str(error.value)


def half(path, variables, suffix):
    """The first half of a file."""
    files.write(epath.Path(path / f"net{suffix}"), variables)
    content = (path / f"net{suffix}").read_bytes()
    (path / "net").write_bytes(content[: len(content) // 2])


def write_npz(path):
    np.savez(path / "net.npz", a=np.ones(3))
    (path / "net.npz").rename(path / "net")


def write_float8(path):
    safetensors.numpy.save_file({"a": np.zeros(2, jnp.float8_e4m3fn)}, path / "net")


# Name -> what makes the file `net` in a folder, and what is said of it.
UNREADABLE = {
    "absent": (lambda path, v: None, "no file of parameters"),
    "half, safetensors": (lambda path, v: half(path, v, ".safetensors"), "cannot be"),
    "half, msgpack": (lambda path, v: half(path, v, ".msgpack"), "cannot be read"),
    "empty": (lambda path, v: (path / "net").write_bytes(b""), "cannot be read"),
    "int": (lambda path, v: (path / "net").write_bytes(b"\x01"), "holds int, not a"),
    "folder": (lambda path, v: (path / "net").mkdir(), "is not a checkpoint of Orbax"),
    "pickle": (
        lambda path, v: (path / "net").write_bytes(pickle.dumps(print)),
        "a pickle, which can run code, and is not read",
    ),
    "npz": (
        lambda path, v: write_npz(path),
        r"a zip archive \(PyTorch or NumPy\), and",
    ),
    "float8": (lambda path, v: write_float8(path), "has the dtype F8_E4M3, which is"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_files_that_cannot_be_read(variables, tmp_path, name):
    make, says = UNREADABLE[name]
    make(tmp_path, variables)
    with pytest.raises(UserError, match=says) as error:
        files.read(tmp_path / "net")
    assert "\n" not in str(error.value)


def test_a_network_with_its_labels(variables, tmp_path):
    """Without a sidecar, and with options of preprocessing."""
    files.write(epath.Path(tmp_path / "net.safetensors"), variables)
    # As some editors write it, with a character that is no end of a line.
    (tmp_path / "names.txt").write_bytes(
        "\ufeffa\r\nb\u2028c\r\nc\r\nd\r\n\r\n".encode()
    )
    given = {"model": TINY, "labels": tmp_path / "names.txt", "image_size": 8}
    net = pretrained.load(
        tmp_path / "net.safetensors", **given, mean=[0.5], std=[0.25, 0.5, 1.0]
    )
    assert net.class_names == ("a", "b\u2028c", "c", "d")
    pixels = np.full((2, 8, 8, 3), 255, np.uint8)
    inputs = net.preprocess(pixels)
    np.testing.assert_allclose(inputs[0, 0, 0], [2.0, 1.0, 0.5])
    own = models.make_logits_fn(build_tiny(4), variables)(inputs)
    np.testing.assert_array_equal(net.logits_fn(inputs), own)


class Fixed(nn.Module):
    """A network for one size of images only."""

    @nn.compact
    def __call__(self, images, train):
        assert images.shape[1:] == SHAPE, "it sees 8x8 pixels"
        return nn.Dense(4)(images.mean((1, 2)))


def fixed(num_classes):
    return Fixed()


def test_a_size_that_the_network_does_not_take(tmp_path):
    (tmp_path / "names").write_text("a\nb\nc\nd")
    arrays = {"kernel": np.ones((3, 4)), "bias": np.ones(4)}
    write_flax(tmp_path / "net", {"params": {"Dense_0": arrays}})
    given = {"model": "test_files:fixed", "labels": tmp_path / "names"}
    pretrained.load(tmp_path / "net", **given, image_size=8)
    with pytest.raises(UserError, match="AssertionError: it sees 8x8 pixels"):
        pretrained.load(tmp_path / "net", **given, image_size=9)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": "absent.txt"}, "absent.txt' cannot be read"),
        ({"labels": "empty.txt"}, "at least 2 classes"),
        ({"labels": "gap.txt"}, "none of them empty; got 4 lines"),
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
    files.write(epath.Path(tmp_path / "net.msgpack"), variables)
    (tmp_path / "names.txt").write_text("a\nb\nc\nd\n")
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "gap.txt").write_text("a\n\nc\nd")
    (tmp_path / "object.json").write_text('{"a": 1}')
    given = {"model": TINY, "labels": "names.txt", "image_size": 8} | change
    with pytest.raises(UserError, match=says) as error:
        pretrained.load("net.msgpack", **given)
    assert "\n" not in str(error.value)


def test_damage_ends_in_one_line_or_changes_numbers(variables, tmp_path):
    """Whatever is flipped, cut or doubled, of each format."""
    generator = np.random.RandomState(0)
    read, refused = 0, []
    for suffix in files.WRITERS:
        whole = epath.Path(tmp_path / f"net{suffix}")
        files.write(whole, variables)
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
                fit(files.read(tmp_path / "net"))
                read += 1
            except UserError as error:
                refused.append(str(error))
    assert [line for line in refused if "\n" in line] == []
    assert len(refused) > 80
    assert read > 2
