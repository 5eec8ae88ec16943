import numpy as np
import pytest
from etils import epath
from harness import batch, ce, images, log_probs, loss, make, train_images

from introspect_jax import method_files, run
from introspect_jax.errors import Stopped, UserError
from introspect_jax.methods.class_similarity_smoothing import mean_image_similarities

NAME = "class_similarity_smoothing"


def rows_of(similarities, temperature):
    weights = np.exp(similarities / temperature)
    np.fill_diagonal(weights, 0)
    return weights / weights.sum(-1, keepdims=True)


def cosines():
    """Between the centred mean images, written once more."""
    pixels, labels = train_images().astype(float).reshape(24, -1), np.arange(24) % 4
    means = np.stack([pixels[labels == k].mean(0) for k in range(4)])
    means -= means.mean(0)
    dots = means @ means.T
    return dots / np.sqrt(np.outer(np.diag(dots), np.diag(dots)))


def test_it_is_by_its_formula():
    method = make(NAME, smoothing=0.3, temperature=0.2)
    value, (_, _, metrics) = loss(method)
    rows = rows_of(cosines(), 0.2)
    assert rows[0].max() > 1.5 * np.sort(rows[0])[1]  # not nearly uniform
    labels = np.asarray(batch(method)["label"])
    target = 0.7 * labels + 0.3 * labels @ rows
    wanted = ce(target, log_probs(method, images()))
    np.testing.assert_allclose(value, wanted.mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["target_true_mass"], 0.7, rtol=1e-6)


def test_batches_and_their_order_do_not_matter():
    """Sums of pixels are exact."""
    pixels, labels = train_images(), np.arange(24) % 4
    whole = mean_image_similarities([(pixels, labels)], 4, (8, 8, 1))
    pieces = [(pixels[i : i + 5], labels[i : i + 5]) for i in range(0, 24, 5)]
    found = mean_image_similarities(pieces[::-1], 4, (8, 8, 1))
    np.testing.assert_array_equal(whole, found)
    np.testing.assert_allclose(whole, cosines(), atol=1e-12)


def test_alike_classes_are_uniform_smoothing():
    pixels = np.zeros((24, 8, 8, 1), np.uint8)
    given = {"train_images": lambda: [(pixels, np.arange(24) % 4)]}
    found = loss(make(NAME, given=given, smoothing=0.3))[0]
    wanted = loss(make("label_smoothing", epsilon=0.3, spread="others"))[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("suffix", [".npy", ".csv"])
def test_similarities_from_a_file(tmp_path, suffix):
    similarities = np.random.RandomState(0).normal(size=(4, 4))
    path = tmp_path / f"classes{suffix}"
    if suffix == ".npy":
        np.save(path, similarities)
    else:
        np.savetxt(path, similarities, delimiter=",")
    method = make(NAME, given={"train_images": None}, file=str(path), temperature=2.0)
    found = method.constants(None)["similarity_rows"]
    np.testing.assert_allclose(found, rows_of(similarities, 2.0), rtol=1e-5)


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("lost.npy", None, "No such file"),
        ("words.csv", b"cat,dog\n1,2\n", "could not convert string"),
        ("three.csv", b"1,2,3\n4,5,6\n7,8,9\n", r"its shape is \[3, 3\].* 4 classes"),
        ("nan.csv", b"nan,1,1,1\n" * 4, "not finite"),
        ("damaged.npy", b"\x93NUMPY\x01", "must be a matrix"),
        ("code.npy", np.full((4, 4), None).dumps(), "must be a matrix"),
    ],
)
def test_bad_files(tmp_path, file, content, says):
    if content is not None:
        (tmp_path / file).write_bytes(content)
    method = make(NAME, file=str(tmp_path / file))  # looked at without it
    with pytest.raises(UserError, match=f"(?s)smoothing.file=.*{says}") as error:
        method.constants(None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("classes", "given", "options", "says"),
    [
        (4, {}, {"smoothing": 1.0}, r"smoothing must lie in \[0, 1\)"),
        (4, {}, {"temperature": 0.0}, r"temperature must lie in \(0, inf\)"),
        (4, {}, {"file": "classes.txt"}, r"must end in \.npy or \.csv"),
        (2, {}, {}, r"--config\.method\.name=label_smoothing"),
    ],
)
def test_bad_input(classes, given, options, says):
    with pytest.raises(UserError, match=says):
        make(NAME, classes, given, **options)


def test_a_class_without_images():
    given = {"train_images": lambda: [(train_images(), np.arange(24) % 3)]}
    with pytest.raises(UserError, match="no image of class number 3"):
        make(NAME, given=given).constants(None)


def test_the_content_of_the_file_belongs_to_the_run(digits_config, tmp_path):
    folder = epath.Path(tmp_path)
    method_files.record(folder, digits_config)  # of a method without files
    assert not list(folder.iterdir())
    file = tmp_path / "classes.csv"
    file.write_text("1,0\n0,1\n")
    digits_config.method.name = NAME
    digits_config.method[NAME].file = str(file)
    before = method_files.digests(digits_config)
    method_files.record(folder, digits_config)
    method_files.record(folder, digits_config)
    file.write_text("1,0\n0,2\n")
    assert before != method_files.digests(digits_config)
    with pytest.raises(UserError, match=r"smoothing\.file is not the file that the"):
        method_files.record(folder, digits_config)
    file.unlink()
    method_files.check_recorded(folder, digits_config)  # it is finished
    with pytest.raises(UserError, match="cannot be read"):
        method_files.record(folder, digits_config)


@pytest.mark.slow
def test_a_run_is_continued_with_the_same_file_only(digits_config, tmp_path):
    file, folder = tmp_path / "classes.csv", tmp_path / "run"
    np.savetxt(file, np.eye(10), delimiter=",")
    digits_config.method.name = NAME
    digits_config.method[NAME].file = str(file)
    digits_config.total_steps = 2
    config = digits_config.lock()

    def trained(**options):
        return run.run("digits", config, str(folder), pictures=False, **options)

    with pytest.raises(Stopped):
        trained(should_stop=lambda step: step == 1)
    np.savetxt(file, 1 - np.eye(10), delimiter=",")
    with pytest.raises(UserError, match=r"smoothing\.file is not the file that the"):
        trained()
    np.savetxt(file, np.eye(10), delimiter=",")
    trained()
    file.unlink()
    assert trained()["method"] == NAME  # finished: it needs the file no more


def test_the_images_are_those_of_the_training_split(experiment):
    """All of them, also where they stream, and as the network sees them."""
    small = {"method.name": NAME, "data.image_size": 6}
    found = [
        experiment(1, **small, **{"data.device_megabytes": megabytes}).constants
        for megabytes in (0, 1000)
    ]
    np.testing.assert_array_equal(*(f["similarity_rows"] for f in found))
    source = experiment(1).loader.source
    pixels, labels = source.take(np.arange(len(source)))
    whole = mean_image_similarities([(pixels[:, 1:7, 1:7], labels)], 10, (6, 6, 1))
    wanted = rows_of(whole, 0.5)
    np.testing.assert_allclose(found[0]["similarity_rows"], wanted, rtol=1e-5)
