"""The numbers behind the figures, and how figures are drawn."""

from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from sklearn.metrics import roc_auc_score

from hilbert_ray.metrics.predictions import Predictions
from hilbert_ray.reporting.plot_data import (
    GRID,
    choose_documents,
    judge,
    precision_curves,
    principal_plane,
    roc_curves,
)
from hilbert_ray.reporting.svg import draw
from tests.reporting.pages import Page


def random_predictions(rows: int = 60, repeats: int = 2) -> Predictions:
    rng = np.random.default_rng(3)
    p = rng.random((rows * repeats, 3)).round(1) + 0.05  # rounded: ties
    y = np.tile(rng.integers(-1, 3, rows), repeats)
    return Predictions(
        kind="multiclass",
        classes=("a", "b", "c"),
        probabilities=p / p.sum(1, keepdims=True),
        decisions=p.argmax(1),
        targets=y,
        fold=np.tile(np.arange(rows) % 4, repeats),
        repeat=np.repeat(np.arange(repeats), rows),
        group=np.tile(np.arange(rows) // 3, repeats),
        document=np.tile(np.arange(rows), repeats),
    )


def test_the_area_under_a_drawn_roc_curve_is_the_pooled_auc() -> None:
    predictions = random_predictions()
    for k, curve in enumerate(roc_curves(predictions)):
        expected = []
        for r in range(2):
            rows = (predictions.repeat == r) & (predictions.targets >= 0)
            truth, score = predictions.targets[rows] == k, predictions.probabilities[rows, k]
            expected.append(roc_auc_score(truth, score))
        assert np.trapezoid(curve.values, GRID) == pytest.approx(np.mean(expected), abs=0.01)


def test_precision_ends_at_the_share_of_positives() -> None:
    predictions = random_predictions()
    for k, curve in enumerate(precision_curves(predictions)):
        share = (predictions.targets == k).sum() / (predictions.targets >= 0).sum()
        assert curve.values[-1] >= share - 1e-9
        assert ((curve.values > 0) & (curve.values <= 1)).all()


def test_chosen_documents_are_the_most_confident_right_and_wrong_and_the_middle() -> None:
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.4, 0.6], [0.55, 0.45]])
    y, count = np.array([0, 0, 0, 0, -1]), np.arange(5)
    predictions = Predictions(
        kind="binary", classes=("no", "yes"), probabilities=p, decisions=p.argmax(1), targets=y,
        fold=count * 0, repeat=count * 0, group=count, document=count,
    )  # fmt: skip
    assert choose_documents(judge(predictions)) == [("right", 0), ("wrong", 2), ("middle", 1)]
    predictions = Predictions(
        kind="regression", classes=(), probabilities=np.array([1.0, 5.0, 2.5]), decisions=None,
        targets=np.array([1.1, 1.0, 2.0]), fold=count[:3] * 0, repeat=count[:3] * 0, group=count[:3],
        document=count[:3],
    )  # fmt: skip
    assert choose_documents(judge(predictions)) == [("right", 0), ("wrong", 1), ("middle", 2)]


def test_a_map_keeps_distances_of_a_plane() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(20, 2))
    points, share = principal_plane(flat @ np.linalg.qr(rng.normal(size=(5, 2)))[0].T + 3)
    assert share == pytest.approx(1)
    before, after = (np.linalg.norm(x[:, None] - x, axis=-1) for x in (flat, points))
    np.testing.assert_allclose(before, after, atol=1e-9)


def test_a_drawing_holds_text_as_written_and_no_colour_of_its_own() -> None:
    name = "#0a0a03 1.23456 $x^2$ <g> --> \u4e2d"

    def paint(axes: Sequence[Axes]) -> None:
        axes[0].set_title(name)

    picture = draw(100, f'says "{name}"', paint)
    shown = Page(picture)
    assert name in shown.text
    assert shown.tags[0][1]["aria-label"] == f'says "{name}"'
    assert "#0a0a" not in str([attributes for tag, attributes in shown.tags if tag != "svg"])
    assert "var(--ink)" in picture
