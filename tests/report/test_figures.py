import numpy as np
import pytest

from introspect_jax.explain import render
from introspect_jax.report.figures import curves


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
    figure, axes = render.new_figure(1, 1, (render.matrix_side(classes),) * 2)
    matrix = np.full((classes, classes), np.nan)
    render.draw_matrix(axes[0][0], matrix, names, "title", 1.0)
    shown = [text.get_text() for text in axes[0][0].get_xticklabels()]
    assert (shown[:2] == ["class0", "class1"]) == (classes <= render.MOST_NAMES)
    render.save(figure, tmp_path / "matrix.png", dpi=20)
    assert (tmp_path / "matrix.png").stat().st_size > 500
