"""The numbers behind the figures, and how figures are drawn."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from matplotlib.axes import Axes
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from hilbert_ray.metrics.predictions import Predictions
from hilbert_ray.reporting.plot_data import (
    GRID,
    calibration_bins,
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


def clustered(rng: np.random.Generator, groups: int, size: int, spread: float) -> Predictions:
    """Return documents whose probability is 0.25, but which are alike within groups by `spread`."""
    group = np.repeat(np.arange(groups), size)
    # Beta with a mean of 0.25: the calibration is right over groups, not within one.
    chance = rng.beta(0.25 / spread, 0.75 / spread, groups)[group]
    count, p = np.arange(len(group)), np.full(len(group), 0.25)
    return Predictions(
        kind="binary", classes=("no", "yes"), probabilities=np.stack([1 - p, p], 1), decisions=count * 0,
        targets=(rng.random(len(group)) < chance).astype(np.int64), fold=count * 0, repeat=count * 0,
        group=group, document=count,
    )  # fmt: skip


@pytest.mark.parametrize(("groups", "size", "spread"), [(12, 5, 0.3), (25, 4, 0.1), (40, 1, 0.01)])
def test_intervals_of_calibration_cover_where_documents_of_a_group_are_alike(
    groups: int, size: int, spread: float
) -> None:
    rng = np.random.default_rng(groups)
    covered = []
    for _ in range(400):
        bins = calibration_bins(clustered(rng, groups, size, spread))
        assert bins.documents.tolist() == [groups * size]
        covered.append(bins.low[0] <= 0.25 <= bins.high[0])
    assert 0.93 <= np.mean(covered) <= 0.99


def test_an_interval_of_single_documents_is_that_of_wilson() -> None:
    rng = np.random.default_rng(0)
    predictions = clustered(rng, 5000, 1, 0.01)
    bins = calibration_bins(predictions)
    expected = binomtest(int((predictions.targets == 1).sum()), 5000).proportion_ci(method="wilson")
    assert (bins.low[0], bins.high[0]) == pytest.approx((expected.low, expected.high), abs=1e-4)


def test_repeats_and_classes_add_rows_but_no_documents() -> None:
    once, twice = random_predictions(repeats=1), random_predictions(repeats=2)
    probabilities, targets = np.tile(once.probabilities, (2, 1)), np.tile(once.targets, 2)
    twice = replace(twice, probabilities=probabilities, targets=targets)
    one, two = calibration_bins(once), calibration_bins(twice)
    assert (2 * one.rows == two.rows).all()
    assert one.documents.tolist() == two.documents.tolist()
    # Saying the same thing twice must not make a bin look surer.
    np.testing.assert_allclose(one.high - one.low, two.high - two.low)
    assert (one.documents <= one.rows).all()


def test_lines_of_calibration_join_neighbours_that_have_enough_documents() -> None:
    counts = {0: 9, 1: 5, 2: 4, 3: 7, 6: 1, 7: 6, 8: 8}
    p = np.repeat([k / 10 + 0.05 for k in counts], list(counts.values()))
    count = np.arange(len(p))
    bins = calibration_bins(
        Predictions(
            kind="binary", classes=("no", "yes"), probabilities=np.stack([1 - p, p], 1), decisions=count * 0,
            targets=count % 2, fold=count * 0, repeat=count * 0, group=count, document=count,
        )
    )  # fmt: skip
    assert bins.number.tolist() == list(counts)
    assert [bins.number[at].tolist() for at in bins.stretches()] == [[0, 1], [3], [7, 8]]
