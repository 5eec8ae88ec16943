"""`launch/explain.py` on a run of the digits."""

import json
import types

import numpy as np
import pytest
from PIL import Image
from tiny import TINY

from introspect_jax.report import explain_run


@pytest.fixture(scope="module")
def trained(command, tmp_path_factory):
    path = tmp_path_factory.mktemp("explain") / "run"
    arguments = ["--config.total_steps=30", f"--workdir={path}"]
    arguments += [f"--config.model.name={TINY}"]
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


def test_own_images(command, trained, tmp_path):
    (tmp_path / "images").mkdir()
    generator = np.random.RandomState(0)
    for i in range(3):
        pixels = generator.randint(0, 256, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / f"{i}.png")
    done = command(
        "explain",
        f"--workdir={trained}",
        f"--output={tmp_path / 'out'}",
        f"--images={tmp_path / 'images'}",
        "--explanation=grad_cam",
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out" / "maps.npz") as found:
        assert found["maps"].shape == (3, 4, 2, 2, 1)
        assert not found["labels_are_known"]
        np.testing.assert_array_equal(
            found["labels"], found["probabilities"].argmax(-1)
        )


def test_own_images_get_the_shape_of_the_run(tmp_path, caplog):
    """Whatever theirs is, and in whatever folder below they lie."""
    (tmp_path / "deep").mkdir()
    pixels = np.arange(32 * 48, dtype=np.uint8).reshape(32, 48)
    Image.fromarray(pixels).save(tmp_path / "deep" / "a.bmp")
    (tmp_path / "notes.txt").touch()
    run = types.SimpleNamespace(dtype="uint8", image_shape=(32, 32, 1))
    images = explain_run.read_folder(str(tmp_path), run)
    np.testing.assert_array_equal(images[0, ..., 0], pixels[:, 8:40])
    run.image_shape = (16, 24, 3)
    assert explain_run.read_folder(str(tmp_path), run).shape == (1, 16, 24, 3)
    assert "1 file left out, for example" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--output=x"], "--workdir is missing"),
        (["--workdir=x", "--output=x"], "is not the work folder of a run"),
        (["--workdir=RUN", "--output=x", "--explanation=lime"], "there are: gradient"),
        (
            ["--workdir=RUN", "--output=x", "--explanation.num_steps=8"],
            "--explanation.num_steps: gradient has no such field; its fields: none",
        ),
        (["--workdir=RUN", "--output=x", "--images=nowhere"], "no folder 'nowhere'"),
        (["--workdir=RUN", "--output=/proc/x"], "cannot be written"),
    ],
    ids=str,
)
def test_mistakes_end_in_one_line(command, trained, arguments, says):
    given = [argument.replace("RUN", str(trained)) for argument in arguments]
    done = command("explain", *given)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert says in done.stderr
