import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from introspect_jax.explain import render
from introspect_jax.report.explained import Explained
from introspect_jax.report.figures import curves, explanations, matrices, strip


def labels(axis):
    legend = axis.get_legend()
    return [text.get_text() for text in legend.get_texts()] if legend else []


def test_curves_show_what_was_recorded():
    records = [
        {"step": s, "split": "train", "loss": 1 / s, "accuracy": 0.5, "weight": 0.1}
        | {"target_entropy": 2.0, "distillation": 0.3}
        for s in (10, 20)
    ] + [{"step": 20, "split": "validation", "top1": 0.6, "nll": 1.2}]
    figure = curves(records)
    loss, accuracy, target = figure.axes
    assert labels(loss) == ["training loss", "validation NLL"]
    assert labels(accuracy) == ["training (as augmented)", "validation"]
    assert len(labels(target)) == 3
    np.testing.assert_allclose(loss.lines[0].get_data(), [[10, 20], [0.1, 0.05]])


def test_curves_of_other_methods_and_of_runs_too_short_to_log():
    assert len(curves([{"step": 1, "split": "train", "loss": 1.0}]).axes) == 2
    assert len(curves([]).axes) == 2
    hard = {"step": 1, "split": "train", "loss": -0.5, "target_entropy": 0.0}
    figure = curves([hard, hard | {"step": 2}])
    assert len(figure.axes) == 2
    assert figure.axes[0].get_ylim()[0] < -0.5


def test_colours_saturate_beside_the_diagonal_and_beyond_outliers():
    matrix = np.array([[1.0, -0.4], [0.2, 1.0]])
    assert render.off_diagonal_limit(matrix, np.eye(2)) == 0.4
    assert render.off_diagonal_limit(np.eye(3)) == 1.0
    maps = np.concatenate([np.linspace(-1, 1, 999), [1e6]])
    assert render.signed_limit(maps) < 2
    assert render.signed_limit(np.zeros(5)) == 1.0


@pytest.mark.parametrize("classes", [3, 30, 200, 300])
def test_matrices_have_names_as_long_as_they_are_legible(classes, tmp_path):
    names = tuple(f"class{i}" for i in range(classes))
    figure, axes = render.new_figure(1, 1, (5, 5))
    matrix = np.full((classes, classes), np.nan)
    render.draw_matrix(axes[0][0], matrix, names, "title", 1.0)
    shown = [text.get_text() for text in axes[0][0].get_xticklabels()]
    assert (shown[:2] == ["class0", "class1"]) == (classes <= render.MOST_NAMES)
    render.save(figure, tmp_path / "matrix.png", dpi=20)
    assert (tmp_path / "matrix.png").stat().st_size > 500


def test_names_are_cut_off():
    assert render.shortened("automobile") == "automobile"
    assert render.shortened("great white shark") == "great white sh…"
    assert render.shortened("tabby, tabby cat", 7) == "tabby,…"
    assert render.shortened("5 $") == r"5 \$"


def test_classes_of_the_most_similar_pairs():
    matrix = np.zeros((5, 5))
    matrix[1, 3], matrix[3, 1] = 0.9, 0.7
    matrix[4, 0] = matrix[0, 4] = 0.9
    matrix[2] = np.nan
    assert render.most_similar_classes(matrix, 4).tolist() == [0, 4, 1, 3]
    assert sorted(render.most_similar_classes(matrix).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("classes", "shown"), [(3, [3]), (200, [200, 20])])
def test_many_classes_are_shown_again_in_part(classes, shown):
    names = tuple(f"class{i}" for i in range(classes))
    panels = {"one": np.eye(classes), "other": np.eye(classes)}
    figure = matrices(panels, names)
    sides = [axis.images[0].get_array().shape[0] for axis in figure.axes if axis.images]
    assert sides == [side for side in shown for _ in panels]


def test_grids_are_as_wide_as_a_page():
    generator = np.random.RandomState(0)
    made = Explained(
        generator.randint(0, 256, (7, 4, 4, 3), dtype=np.uint8),
        np.arange(7),
        "label",
        generator.dirichlet(np.ones(30), 7),
        generator.normal(size=(7, 30)),
        np.tile(np.arange(23), (7, 1)),
        generator.normal(size=(7, 23, 4, 4, 3)),
    )
    part = made.part(slice(4, 8))
    assert part.labels.tolist() == [4, 5, 6]
    assert part.kind == "label"
    assert len(part.maps) == len(part.pixels) == 3
    names = tuple("n0" + 40 * str(i) for i in range(30))
    config = ConfigDict({"explanation": "gradient", "similarity": "dot"})
    line = strip(part, 0, names, config)
    assert line.get_figwidth() == pytest.approx(render.PAGE_WIDTH)
    assert len(line.axes) == 24
    few = dataclasses.replace(part, classes=part.classes[:, :4], maps=part.maps[:, :4])
    grid = explanations(few, names, config, overlay=True)
    assert grid.get_figwidth() == pytest.approx(render.PAGE_WIDTH)
    assert len(grid.axes) == 3 * 6
    lines = [text for a in grid.axes for text in a.get_title().splitlines()]
    assert max(map(len, lines)) <= 25
