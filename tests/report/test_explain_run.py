"""`launch/explain.py` on a run of the digits."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from introspect_jax import class_similarity
from introspect_jax.report import explain_run
from introspect_jax.restore import load


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "run"
    arguments = ["--config.total_steps=30", f"--workdir={path}"]
    # Not the default: what is exported knows it.
    arguments += [f"--config.model.name={TINY}"]
    arguments += ["--config.explain.explanation=gradient_x_input"]
    done = command("main", "--config=configs/digits.py", *arguments)
    assert done.returncode == 0, done.stderr
    return path


def test_pictures_maps_and_metrics(command, trained, tmp_path):
    done = command(
        "explain",
        f"--workdir={trained}",
        f"--output={tmp_path / 'out'}",
        "--explanation=integrated_gradients",
        "--num_examples=5",
        "--explanation.num_steps=8",
        "--metric_images=12",
    )
    assert done.returncode == 0, done.stderr
    assert "deletion" in done.stdout
    out = tmp_path / "out"
    assert {p.name for p in out.iterdir()} == {
        "explanations_0.png",
        "explanations_1.png",
        "class_similarity.png",
        *(f"strip_{i}.png" for i in range(4)),
        "maps.npz",
        "metrics.json",
    }
    with np.load(out / "maps.npz") as found:
        assert found["maps"].shape == (5, 4, 8, 8, 1)
        assert found["similarities"].shape == (5, 10)
        labels, classes = found["labels"], found["explained_classes"]
        np.testing.assert_array_equal(classes[:, 0], labels)
        own = found["similarities"][np.arange(5), labels]
        np.testing.assert_allclose(own, 1, rtol=1e-4)
        # What is beside the label is what is most similar to it.
        others = found["similarities"].copy()
        others[np.arange(5), labels] = -np.inf
        np.testing.assert_array_equal(classes[:, 1], others.argmax(-1))
        # Similarities are those of the maps that are stored.
        maps = found["maps"].reshape(5, 4, -1)
        inner = np.einsum("bmp,bp->bm", maps, maps[:, 0])
        wanted = np.take_along_axis(found["similarities"], classes, 1)
        np.testing.assert_allclose(inner / inner[:, :1], wanted, atol=1e-3)
    table = json.loads((out / "metrics.json").read_text())
    rows = {row["metric"]: row for row in table["rows"]}
    assert {"deletion", "insertion", "completeness error"} <= rows.keys()
    assert all(row["low"] <= row["mean"] <= row["high"] for row in rows.values())


def write_images(folder):
    folder.mkdir()
    generator = np.random.RandomState(0)
    for i in range(3):
        pixels = generator.randint(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")


def test_own_images(command, trained, tmp_path):
    write_images(tmp_path / "images")
    done = command(
        "explain",
        f"--workdir={trained}",
        f"--output={tmp_path / 'out'}",
        f"--images={tmp_path / 'images'}",
        "--explanation=grad_cam",
        "--metric_images=0",
    )
    assert done.returncode == 0, done.stderr
    assert "deletion" not in done.stdout
    with np.load(tmp_path / "out" / "maps.npz") as found:
        assert found["maps"].shape == (3, 4, 2, 2, 1)
        assert not found["labels_are_known"]
        np.testing.assert_array_equal(
            found["labels"], found["probabilities"].argmax(-1)
        )


def test_what_is_exported_is_explained_to_the_same_bits(command, trained, tmp_path):
    write_images(tmp_path / "images")
    images, found = f"--images={tmp_path / 'images'}", {}
    exported = tmp_path / "net.safetensors"
    done = command("export", f"--workdir={trained}", f"--output={exported}")
    assert done.returncode == 0, done.stderr
    for name, net in (
        ("run", f"--workdir={trained}"),
        ("file", f"--params={exported}"),
    ):
        done = command("explain", net, images, f"--output={tmp_path / name}")
        assert done.returncode == 0, done.stderr
        found[name] = (tmp_path / name / "maps.npz").read_bytes()
        found[f"{name}, metrics"] = (tmp_path / name / "metrics.json").read_bytes()
    assert found["run"] == found["file"]
    assert found["run, metrics"] == found["file, metrics"]
    assert not (tmp_path / "file" / "class_similarity.png").exists()


def test_any_class_of_a_network_from_outside(command, trained, tmp_path):
    """Described by flags: its factory, its parameters and the names of its classes."""
    write_images(tmp_path / "images")
    exported = tmp_path / "net.msgpack"
    done = command("export", f"--workdir={trained}", f"--output={exported}")
    assert done.returncode == 0, done.stderr
    (tmp_path / "net.msgpack.json").unlink()
    classes = [f"digit {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text("\n".join(classes))
    given = [f"--model={TINY}", f"--params={exported}", "--image_size=8"]
    given += ["--channels=1", "--mean=0.305", "--std=0.376"]
    given += [f"--labels={tmp_path / 'names.txt'}", f"--images={tmp_path / 'images'}"]
    given += [f"--output={tmp_path / 'out'}", "--metric_images=0"]
    done = command("explain", *given, "--target=digit 7")
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "maps.npz") as found:
        assert found["labels"].tolist() == [7, 7, 7]
        assert found["class_names"].tolist() == classes
        assert not found["labels_are_known"]
        # As the run explains the same class.
        run = load(str(trained))
        names, pixels = explain_run.read_folder(str(tmp_path / "images"), run)
        assert found["files"].tolist() == names.tolist() == ["0.png", "1.png", "2.png"]
        inputs = run.preprocess(pixels)
        own = class_similarity(run.logits_fn, inputs, np.full(3, 7))
        np.testing.assert_allclose(found["similarities"], own, rtol=1e-3, atol=1e-4)


def test_own_images_get_the_shape_of_the_run(tmp_path, caplog):
    """Whatever theirs is, and in whatever folder below they lie."""
    (tmp_path / "deep").mkdir()
    pixels = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48)
    Image.fromarray(pixels).save(tmp_path / "deep" / "a.bmp")
    (tmp_path / "notes.txt").touch()
    run = types.SimpleNamespace(
        dtype="uint8", image_shape=(32, 32, 1), resize="bilinear"
    )
    names, images = explain_run.read_folder(str(tmp_path), run)
    assert names.tolist() == ["deep/a.bmp"]
    np.testing.assert_array_equal(images[0, ..., 0], pixels[:, 8:40])
    run.image_shape = (16, 24, 3)
    assert explain_run.read_folder(str(tmp_path), run)[1].shape == (1, 16, 24, 3)
    assert "1 file left out, for example" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output=x"], "--workdir is missing"),
        (["--workdir=x", "--output=x"], "is not the work folder of a run"),
        (["--workdir=RUN", "--output=x", "--explanation=lime"], "there are: gradient"),
        (
            ["--workdir=RUN", "--output=x", "--explanation.num_steps=8"],
            "--explanation.num_steps: gradient_x_input has no such field; its fields: ",
        ),
        (["--workdir=RUN", "--output=x", "--images=nowhere"], "no folder 'nowhere'"),
        (["--workdir=RUN", "--output=/proc/x"], "cannot be written"),
        (["--workdir=RUN", "--params=x", "--output=x"], "are two networks"),
        (["--workdir=RUN", "--mean=0", "--output=x"], "--mean is for networks from"),
        (["--params=x", "--output=x"], "--images is missing"),
        (["--params=x", "--data_dir=x", "--output=x"], "--data_dir is for runs"),
        (
            ["--params=x", "--images=x", "--output=x", "--std=x"],
            "--std must be numbers",
        ),
        (["--params=x", "--images=x", "--output=x"], "no file of parameters 'x'"),
        (
            ["--workdir=RUN", "--images=x", "--output=x", "--target=ten"],
            "--target: no class 'ten'; give one of the 10 names, or a number from 0 to",
        ),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(command, trained, arguments, says):
    given = [argument.replace("RUN", str(trained)) for argument in arguments]
    done = command("explain", *given)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr
