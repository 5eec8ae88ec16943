"""A network's similarities and its own outputs: by definition, and the page."""

import json

import jax
import numpy as np
import pytest
from conftest import ROOT
from scipy import stats
from tiny import build_tiny

from introspect_jax.binding import for_pictures
from introspect_jax.config import default_config
from introspect_jax.data.preprocess import Preprocess
from introspect_jax.models import init_variables
from introspect_jax.trained import Trained
from studies import own_outputs as study
from studies.forms import MANY_CLASSES, OWN_LOGITS, WEIGHT_ROWS
from studies.pages import own_outputs as page

CLASSES, SHAPE = 7, (12, 12, 3)


def test_means_of_others_by_hand():
    values = np.array([[1.0, 2.0], [3.0, 6.0], [5.0, 1.0]])
    same, rest = study.means_of_others(values, np.array([1, 1, 0]))
    np.testing.assert_allclose(same, [[3, 6], [1, 2], [np.nan, np.nan]])
    np.testing.assert_allclose(rest, [[5, 1], [5, 1], [2, 4]])
    _, rest = study.means_of_others(values, np.array([1, 1, 1]))
    assert np.isnan(rest).all()


@pytest.fixture(scope="module")
def measured():
    """Scores of one form and what they are of: 40 examples, of which two are alone."""
    random = np.random.RandomState(0)
    features = random.normal(size=(40, 5))
    kernel, bias = random.normal(size=(5, 8)), 0.1 * random.normal(size=8)
    logits = features @ kernel + bias
    mirrored = logits + random.normal(size=logits.shape)
    form = logits + 2 * random.normal(size=logits.shape)
    arrays = {"s": form, "z": logits, "mirrored": mirrored}
    arrays = {name: np.float32(values) for name, values in arrays.items()}
    scores = study.scores({"form": arrays["s"]}, arrays["z"], mirrored, kernel, bias)
    return scores, arrays | {"kernel": kernel, "bias": bias}


def partial(s, response, *known):
    """By regression on the ranks of one example; NaN if nothing is left of them."""
    ranks = [stats.rankdata(values) for values in (s, response, *known)]
    design = np.stack([*ranks[2:], np.ones(len(s))], 1)
    left = [r - design @ np.linalg.lstsq(design, r, rcond=None)[0] for r in ranks[:2]]
    return np.corrcoef(*left)[0, 1] if np.ptp(left, axis=1).min() > 1e-9 else np.nan


def test_scores_by_definition(measured):
    """Each mean is that of correlations of NumPy and SciPy, example by example."""
    scores, arrays = measured
    s, z, kernel = arrays["s"], arrays["z"], arrays["kernel"]
    top = z.argmax(-1)
    found = {name: [] for name in ("example", "beyond_rows", "beyond_fixed", "others")}
    found |= {"others_beyond": [], "others_beyond_fixed": [], "mirror_beyond_fixed": []}
    for i, y in enumerate(top):
        kept = np.arange(8) != y
        products = (kernel.T @ kernel)[y]
        lengths = np.linalg.norm(kernel, axis=0)
        weights = [products[kept], (products / lengths)[kept]]
        fixed = [*weights, z[top != y].mean(0)[kept]]
        own, mine = z[i, kept], s[i, kept]
        found["example"].append(stats.spearmanr(mine, own).statistic)
        found["beyond_rows"].append(partial(mine, own, *weights))
        found["beyond_fixed"].append(partial(mine, own, *fixed))
        found["mirror_beyond_fixed"].append(
            partial(mine, arrays["mirrored"][i, kept], own, *fixed)
        )
        others = (top == y) & (np.arange(40) != i)
        if others.any():
            mean = z[others].mean(0)[kept]
            found["others"].append(stats.spearmanr(mine, mean).statistic)
            found["others_beyond"].append(partial(mine, mean, own))
            found["others_beyond_fixed"].append(partial(mine, mean, own, *fixed))
    for column, values in found.items():
        interval = scores["form"][column]
        assert interval["mean"] == pytest.approx(np.nanmean(values), abs=1e-5), column
        assert interval["count"] == np.isfinite(values).sum()


def test_class_means_are_of_classes_with_enough_images(measured):
    scores, arrays = measured
    top = arrays["z"].argmax(-1)
    values = []
    for y in np.flatnonzero(np.bincount(top) >= study.LEAST_IMAGES):
        kept = np.arange(8) != y
        means = [arrays[name][top == y].mean(0)[kept] for name in ("s", "z")]
        values.append(stats.spearmanr(*means).statistic)
    assert 1 < len(values) < len(set(top))
    assert scores["form"]["class"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert scores["form"]["class"]["count"] == len(values)


def test_controls(measured):
    """What is known says nothing beyond itself, and what all share nothing of one."""
    scores, arrays = measured
    assert scores[OWN_LOGITS]["example"]["mean"] == pytest.approx(1)
    assert scores[OWN_LOGITS]["others_beyond"]["count"] == 0
    assert scores[WEIGHT_ROWS]["beyond_rows"]["count"] == 0
    assert scores[study.COMMON]["beyond_fixed"]["count"] == 0
    for control in (WEIGHT_ROWS, study.COMMON):
        assert scores[control]["instance"]["count"] == 0
    # The top logits are above the bias here, so that only the bias makes a difference.
    products = scores[study.OWN_PRODUCTS]["example"]["mean"]
    top, z = arrays["z"].argmax(-1), arrays["z"]
    wanted = [
        stats.spearmanr(*np.delete([row - arrays["bias"], row], y, axis=1)).statistic
        for row, y in zip(z, top, strict=True)
    ]
    assert (z.max(-1) > arrays["bias"][top]).all()
    assert products == pytest.approx(np.mean(wanted), abs=1e-5)


def test_page(tmp_path, monkeypatch):
    some = ("gradient, projection", "Grad-CAM, cosine")
    forms = {name: MANY_CLASSES[name] for name in some}
    for module in (study, page):
        monkeypatch.setattr(module, "MANY_CLASSES", forms)
    model = build_tiny(CLASSES)
    params, state = init_variables(model, SHAPE, jax.random.key(0))
    net = Trained(
        model=model,
        variables={"params": params, **state},
        preprocess=Preprocess(SHAPE[:2], (0.5,), (0.25,)),
        class_names=tuple("abcdefg"),
        image_shape=SHAPE,
        dtype="uint8",
        explain=for_pictures(default_config()),
    )
    random, lines = np.random.RandomState(0), []
    samples = {
        name: random.randint(0, 256, (count, *SHAPE)).astype(np.uint8)
        for name, count in (("random", 12), ("recognised", 12), ("photographs", 1))
    }
    results = study.own_outputs(net, samples, report=lines.append)
    assert len(lines) == 3 * len(forms)
    example = results["random"]["scores"]["Grad-CAM, cosine"]["example"]
    assert example["count"] == 12
    assert -1 <= example["mean"] <= 1
    about = {"name": "tiny", "network": "A tiny network.", "data": "Random images."}
    page.write(tmp_path / "out", about, results)
    text = (tmp_path / "out" / "README.md").read_text()
    for form in forms:
        assert text.count(f"| {form} |") >= 3
    assert "nan" not in text
    stored = json.loads((tmp_path / "out" / "agreement.json").read_text())
    assert stored["results"]["random"]["images"] == 12
    assert (tmp_path / "out" / "agreement.png").exists()


def test_the_committed_page_is_that_of_its_numbers():
    """Nothing on it was typed."""
    folder = ROOT / "results" / "imagenet_agreement"
    stored = json.loads((folder / "agreement.json").read_text())
    assert page.page(stored, stored["results"]) == (folder / "README.md").read_text()
