"""The page of `examples/pretrained`: its numbers, its text, and its command."""

import functools
import sys

import jax
import numpy as np
import pytest
import scipy.stats
from conftest import ROOT
from PIL import Image
from tiny import build_tiny

from introspect_jax.binding import for_pictures
from introspect_jax.config import default_config
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.models import init_variables, make_logits_fn
from introspect_jax.trained import Trained

FOLDER = ROOT / "examples" / "pretrained"
CLASSES, SIZE = 150, 16


@pytest.fixture(scope="module", autouse=True)
def modules():
    """The example's folder, on the path of modules."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(FOLDER)
        yield
    for name in set(sys.modules) - before:  # short names, which others may have
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(FOLDER)):
            del sys.modules[name]


@pytest.fixture(scope="module")
def net():
    model, shape = build_tiny(CLASSES), (SIZE, SIZE, 3)
    init = functools.partial(init_variables, model, shape)
    random = np.random.RandomState(0)
    # Nothing is compiled to draw them. Variances must not be negative.
    params, state = jax.tree.map(
        lambda leaf: (
            np.abs(random.normal(size=leaf.shape)).astype(np.float32) + 0.1
            if leaf.ndim == 1
            else random.normal(size=leaf.shape).astype(np.float32)
        ),
        jax.eval_shape(init, jax.random.key(0)),
    )
    return Trained(
        model=model,
        variables={"params": params, **state},
        preprocess=Preprocess((SIZE, SIZE), (0.5,), (0.25,)),
        class_names=tuple(f"class {k}" for k in range(CLASSES)),
        image_shape=shape,
        dtype="uint8",
        explain=for_pictures(default_config()),
    )


@pytest.fixture(scope="module")
def examples(net):
    import photograph_maps

    pixels = np.random.RandomState(0).randint(0, 256, (2, SIZE, SIZE, 3), np.uint8)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SAMPLES", "STEPS"):
            patch.setattr(photograph_maps, name, 2)
        yield photograph_maps.explain(net, ["first", "second"], pixels)


@pytest.fixture(scope="module")
def text(net, examples):
    import page_text

    facts = page_text.Facts(
        "NETWORK", net.class_names, 63.75, 127.5, "MADE", ["LICENCE"] * 2
    )
    return page_text.page(examples, facts)


def test_the_similarity_is_that_of_the_gradients_of_all_classes(net, examples):
    for example in examples:
        x = net.preprocess(example.pixels[None])
        rows = jax.jacrev(make_logits_fn(net.model, net.variables))(x)[0, :, 0]
        rows = np.asarray(rows).reshape(CLASSES, -1)
        own = rows[example.top]
        np.testing.assert_allclose(
            example.similarities, rows @ own / (own @ own), rtol=1e-3, atol=1e-4
        )
        kernel = np.asarray(net.variables["params"]["head"]["kernel"]).T
        own = kernel[example.top]
        np.testing.assert_allclose(
            example.weight_rows, kernel @ own / (own @ own), rtol=1e-4, atol=1e-5
        )


def test_maps_are_of_the_size_of_the_photograph(examples):
    for example in examples:
        for title, shown in example.maps.items():
            assert shown.values.shape == (SIZE, SIZE, 1), title
            assert np.isfinite(shown.values).all(), title
        sums = example.maps["integrated gradients"].values.sum()
        assert sums == pytest.approx(example.change + example.error, rel=1e-5)


def test_ranks_and_correlations_leave_the_top_class_out():
    import comparison

    random = np.random.RandomState(0)
    logits = random.normal(size=CLASSES).astype(np.float32)
    values = logits + random.normal(size=CLASSES).astype(np.float32)
    values[logits.argmax()] = 9.0
    found = comparison.compare(values, logits)
    others = np.delete(np.arange(CLASSES), logits.argmax())
    wanted = sorted(others, key=lambda k: -values[k])[:10]
    assert found.similar.tolist() == wanted
    rho = scipy.stats.spearmanr(values[others], logits[others])[0]
    assert found.correlation == pytest.approx(rho, abs=1e-4)
    ranks = [1 + int((logits > logits[k]).sum()) for k in range(CLASSES)]
    assert comparison.ranks(logits).tolist() == ranks
    # Ranks 2 to 11 are the ten highest logits of the others.
    assert found.shared == sum(ranks[k] <= 11 for k in wanted) > 0
    assert found.low == []
    low = comparison.compare(-values, logits).low
    wanted = sorted(others, key=lambda k: values[k])[:10]
    assert low == [k for k in wanted if ranks[k] > comparison.LOW]
    assert 0 < len(low) < 10


def test_correlation_beyond_a_control():
    import comparison

    random = np.random.RandomState(1)
    logits, values, control = random.normal(size=(3, CLASSES))
    values, control = values + logits, control + logits
    others = np.delete(np.arange(CLASSES), logits.argmax())
    x, y, z = (
        scipy.stats.rankdata(array[others]) for array in (values, logits, control)
    )
    # The correlation of what a line through the ranks of the control leaves.
    left = [a - np.polyval(np.polyfit(z, a, 1), z) for a in (x, y)]
    wanted = np.corrcoef(*left)[0, 1]
    found = comparison.beyond(values, logits, control)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert np.isnan(comparison.beyond(values, logits, values))


def test_the_page_has_a_row_of_each_photograph(net, examples, text):
    import comparison

    for example in examples:
        top = net.class_names[example.top]
        assert f"![{example.name} and maps of {top}]({example.name}.png)" in text
        (row,) = [
            line.split(" | ")
            for line in text.splitlines()
            if line.startswith(f"| {example.name} |")
        ]
        found = comparison.compare(example.similarities, example.logits)
        assert row[1] == top
        assert row[2] == f"{found.correlation:+.2f}"
        assert row[6] == str(found.shared)
        first, values = found.similar[0], example.similarities
        assert f"| 1 | {net.class_names[first]}: {values[first]:.2f} (" in text
    assert "nan" not in text


def test_pictures_have_few_colours_and_the_width_of_a_page(net, examples, tmp_path):
    import page_figures

    for name, figure in (
        ("row", page_figures.row(examples[0])),
        ("classes", page_figures.row_with_classes(examples[0], net.class_names)),
    ):
        page_figures.save(figure, tmp_path / f"{name}.png", dpi=50)
        with Image.open(tmp_path / f"{name}.png") as image:
            assert (image.mode, image.width) == ("P", 480)


def test_percent():
    import page_figures

    assert page_figures.percent(0.3846) == "38.5 %"
    assert page_figures.percent(0.0004) == "< 0.1 %"


@pytest.mark.slow
def test_the_command_writes_the_page(tmp_path, monkeypatch, capsys):
    for package in ("skimage", "sklearn"):
        pytest.importorskip(package)
    import efficientnet_lite
    import page
    import photograph_maps

    if not efficientnet_lite.WEIGHTS.exists():
        pytest.skip("no weights; examples/pretrained/convert.py writes them")
    for name in ("SAMPLES", "STEPS"):
        monkeypatch.setattr(photograph_maps, name, 2)
    output, row = tmp_path / "page", tmp_path / "row.png"
    page.main([f"--output={output}", "--photographs=2", f"--row={row}"])
    assert "2 pictures" in capsys.readouterr().out
    pictures = sorted(path.name for path in output.glob("*.png"))
    assert pictures == ["chelsea.png", "coffee.png"]
    text = (output / "README.md").read_text()
    for words in ("Egyptian Mau 38.4 %", "espresso 9", "1,000 classes"):
        assert words in text
    for picture in (*output.glob("*.png"), row):
        assert 50_000 < picture.stat().st_size < 300_000


@pytest.mark.parametrize("count", ["0", "-1"])
def test_a_number_of_photographs_below_one(count, capsys):
    pytest.importorskip("skimage")
    import page

    with pytest.raises(SystemExit):
        page.main([f"--photographs={count}"])
    assert "--photographs must be at least 1" in capsys.readouterr().err
