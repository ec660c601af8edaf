"""Numbers of figures against NumPy and scikit-learn, and places, times and roundings against formulas."""

import re
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix, roc_curve

from hilbert_ray.config import SpaceConfig
from hilbert_ray.metrics.predictions import Predictions
from hilbert_ray.reporting.html import MINUS, confusion, number
from hilbert_ray.reporting.plot_data import (
    GRID,
    by_epoch,
    calibration_bins,
    confusion_counts,
    judge,
    precision_curves,
    principal_plane,
    roc_curves,
)
from hilbert_ray.reporting.plots import _round_times, clock
from hilbert_ray.reporting.search import _axes, _marks, _score_axis
from hilbert_ray.reporting.svg import _clean as clean
from hilbert_ray.reporting.svg import draw, in_tags
from hilbert_ray.reporting.timelines import _lanes

scored = st.lists(st.tuples(st.integers(0, 10), st.booleans()), min_size=2, max_size=25)
"""Score in tenths, with ties, and truth."""


def binary(rows: Sequence[tuple[int, bool]]) -> Predictions:
    score, truth = np.array(rows).T
    count = np.arange(len(rows))
    return Predictions(
        kind="binary", classes=("no", "yes"), probabilities=score / 10, decisions=(score > 5) * 1,
        targets=truth.astype(np.int64), fold=count % 2, repeat=count * 0, group=count, document=count,
    )  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(scored)
def test_a_drawn_roc_curve_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    score, truth = np.array(rows).T
    assume(0 < truth.sum() < len(truth))
    [curve] = roc_curves(binary(rows))
    false, true, _ = roc_curve(truth, score, drop_intermediate=False)
    # At a jump the upper end counts, also at 0.
    np.testing.assert_allclose(curve.values, np.interp(GRID, false, true), atol=1e-9)
    assert curve.values[-1] == pytest.approx(1)


@settings(max_examples=20, deadline=None)
@given(scored)
def test_drawn_precision_is_that_of_the_strictest_threshold_with_enough_recall(
    rows: list[tuple[int, bool]],
) -> None:
    score, truth = np.array(rows).T
    assume(0 < truth.sum() < len(truth))
    [curve] = precision_curves(binary(rows))
    for recall, precision in zip(GRID, curve.values, strict=True):
        for threshold in range(10, -1, -1):
            passed = score >= threshold
            hits = int((truth[passed] == 1).sum())
            if hits and hits >= recall * truth.sum() - 1e-9:
                assert precision == pytest.approx(hits / passed.sum())
                break


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_confusion_counts_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    targets, decisions = np.array(rows).T
    known = targets >= 0
    assume(known.any())
    expected = confusion_matrix(targets[known], decisions[known], labels=range(4))
    np.testing.assert_array_equal(confusion_counts(targets, decisions, 4), expected)


@settings(max_examples=30, deadline=None)
@given(scored)
def test_reliability_has_the_counts_and_means_of_a_histogram(rows: list[tuple[int, bool]]) -> None:
    rows = [(2 * (score // 2) + 1, truth) for score, truth in rows if score < 10]  # no score on a border
    assume(rows)
    p, truth = np.array(rows).T / np.array([[10.0], [1.0]])
    pooled = calibration_bins(binary(rows))
    edges = np.linspace(0, 1, 11) + np.linspace(-1e-6, 1e-6, 11) - 1e-6
    count, _ = np.histogram(p, edges)
    used = count > 0
    assert pooled.rows.tolist() == pooled.documents.tolist() == count[used].tolist()
    np.testing.assert_allclose(pooled.predicted, np.histogram(p, edges, weights=p)[0][used] / count[used])
    np.testing.assert_allclose(pooled.observed, np.histogram(p, edges, weights=truth)[0][used] / count[used])
    assert pooled.number.tolist() == np.flatnonzero(used).tolist()
    has_interval = np.isfinite(pooled.low)
    assert (has_interval == (pooled.documents > 1)).all()
    inside = (pooled.low <= pooled.observed) & (pooled.observed <= pooled.high)
    assert inside[has_interval].all()


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 30), st.integers(2, 8), st.integers(0, 50))
def test_a_map_is_that_of_principal_component_analysis_up_to_signs(rows: int, dim: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, dim)) * np.arange(1, dim + 1)
    flat, share = principal_plane(x)
    analysis = PCA(2).fit(x)
    np.testing.assert_allclose(np.abs(flat), np.abs(analysis.transform(x)), atol=1e-8)
    assert share == pytest.approx(analysis.explained_variance_ratio_.sum())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 5), st.none() | st.floats(-1e6, 1e6) | st.just(float("nan")))))
def test_values_by_epoch_are_means_over_networks_that_have_one(rows: list[tuple[int, float | None]]) -> None:
    epochs, means = by_epoch([{"epoch": epoch, "loss": value, "lr": 1.0} for epoch, value in rows], "loss")
    defined = [(epoch, value) for epoch, value in rows if value is not None and value == value]
    assert epochs.tolist() == sorted({epoch for epoch, _ in defined})
    expected = [np.mean([value for other, value in defined if other == epoch]) for epoch in epochs]
    np.testing.assert_allclose(means, expected)


def test_documents_with_several_labels_are_judged_by_means_over_the_known_ones() -> None:
    p = np.array([[0.9, 0.4, 0.2], [0.6, 0.7, 0.1], [0.5, 0.5, 0.5]])
    y = np.array([[1, 0, np.nan], [0, 1, 1], [np.nan] * 3])
    count = np.arange(3)
    judged = judge(
        Predictions(
            kind="multilabel", classes=("a", "b", "c"), probabilities=p, decisions=(p > 0.5).astype(np.int64),
            targets=y, fold=count * 0, repeat=count * 0, group=count, document=count,
        )
    )  # fmt: skip
    assert judged.rows.tolist() == [0, 1]
    assert judged.is_right.tolist() == [True, False]
    assert judged.of_truth == pytest.approx([(0.9 + 0.6) / 2, (0.4 + 0.7 + 0.1) / 3])
    assert judged.of_decision == pytest.approx([(0.9 + 0.6) / 2, (0.6 + 0.7 + 0.9) / 3])


@settings(max_examples=100, deadline=None)
@given(st.floats(0.5, 2e5))
def test_a_time_axis_has_at_most_six_even_ticks_that_reach_its_last_step(longest: float) -> None:
    times = _round_times(longest)
    assert times[0] == 0
    assert len(times) <= 6
    step = times[1] if len(times) > 1 else 1
    np.testing.assert_allclose(np.diff(times), step)
    assert times[-1] <= longest < times[-1] + step
    # Round on a clock: a step divides an hour, or is made of whole hours.
    assert 3600 % step == 0 or step % 3600 == 0


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 2e5))
def test_a_clock_reads_as_the_seconds_that_it_was_made_from(seconds: float) -> None:
    parts = [int(part) for part in clock(seconds).split(":")]
    assert all(part < 60 for part in parts[1:])
    total = 0
    for part in parts:
        total = 60 * total + part
    assert total == pytest.approx(seconds, abs=0.5)


@settings(max_examples=60, deadline=None)
@given(st.floats(-1e9, 1e9), st.integers(0, 6), st.booleans())
def test_a_number_shows_its_rounding_and_keeps_its_full_value(
    value: float, digits: int, signed: bool
) -> None:
    match = re.fullmatch(r'<data value="([^"]*)">([^<]*)</data>', number(value, digits, signed))
    assert match
    assert float(match[1]) == value
    assert float(match[2].replace(MINUS, "-")) == pytest.approx(value, abs=0.5 * 10**-digits + 1e-6)
    assert match[2].startswith("+") == (signed and not match[2].startswith(MINUS))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=3, max_size=3))
def test_shades_of_confusion_counts_are_shares_of_their_rows(counts: list[list[int]]) -> None:
    page = confusion("Counts", ["a", "b", "c"], counts)
    shares = np.array(re.findall(r"--share:([\d.]+)", page), float).reshape(3, 3)
    totals = np.array(counts).sum(1, keepdims=True)
    np.testing.assert_allclose(shares, np.array(counts) / np.maximum(totals, 1), atol=5.1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=6))
def test_coordinates_are_cut_by_less_than_a_hundredth_and_text_is_not(numbers: list[float]) -> None:
    path = " ".join(f"L {x:.6f}" for x in numbers)
    cleaned = in_tags(clean, f'<path d="{path}">3.14159</path>')
    assert cleaned.endswith(">3.14159</path>")
    found = [float(x) for x in re.findall(r"L (-?[\d.]+)", cleaned)]
    np.testing.assert_allclose(found, numbers, atol=0.01 + 1e-6)


def test_what_is_evenly_spaced_is_drawn_evenly_spaced() -> None:
    def paint(axes: Sequence[Axes]) -> None:
        axes[0].plot([0, 1, 2, 3], [5, 9, 1, 3], color="#123456", linewidth=7)
        axes[0].set(xlim=(0, 3), ylim=(0, 10))

    picture = draw(300, "a line", paint)
    path = re.search(r'd="([^"]*)"[^>]*#123456', picture)
    assert path
    x, y = np.array(re.findall(r"[ML] ([\d.]+) ([\d.]+)", path[1]), float).T
    assert np.diff(x) == pytest.approx(np.diff(x).mean(), abs=0.02)
    # Down the page, in proportion to the values.
    assert np.diff(y) / np.diff([5, 9, 1, 3]) == pytest.approx(-abs(y[1] - y[0]) / 4, abs=0.02)


def trials_of(folds: Sequence[int]) -> list[dict[str, object]]:
    return [{"folds": [0.5] * n, "is_default": i == 0, "settings": {}} for i, n in enumerate(folds)]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=30).map(lambda folds: sorted([3, *folds])[::-1]))
def test_a_quarter_of_the_finished_trials_is_marked_as_best(folds: list[int]) -> None:
    marks = _marks(trials_of(folds), 3)
    assert marks.is_finished.tolist() == [n == 3 for n in folds]
    assert abs(marks.is_best.sum() - folds.count(3) / 4) <= 0.5 or marks.is_best.sum() == 1
    assert (marks.is_finished | ~marks.is_best).all()
    assert sum(is_drawn.sum() for is_drawn, _, _ in marks.styles()) == len(folds)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-4, 1e3), min_size=1, max_size=8), st.floats(1e-3, 1.0), st.floats(1.1, 1e3))
def test_trials_lie_on_a_logarithmic_axis_by_their_logarithms(
    values: list[float], low: float, ratio: float
) -> None:
    space = {"loss.cka": SpaceConfig(low=low, high=low * ratio, log=True)}
    [axis] = _axes([{"settings": {"loss.cka": value}} for value in values], space)
    expected = np.interp(np.log(values), [np.log(low), np.log(low * ratio)], [0, 1])
    np.testing.assert_allclose(axis.places, expected, atol=1e-9)
    shown = [float(label) for _, label in axis.ticks]
    assert shown == pytest.approx([low, low * ratio**0.5, low * ratio], rel=6e-3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_scores_lie_between_the_lowest_and_the_highest(scores: list[float]) -> None:
    axis = _score_axis(np.array(scores))
    span = max(scores) - min(scores)
    np.testing.assert_allclose(np.array(axis.places) * span + min(scores), scores, atol=1e-12)
    assert [float(label) for _, label in axis.ticks] == pytest.approx([min(scores), max(scores)], abs=5.1e-4)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(1e-3, 1), min_size=2, max_size=9), st.booleans())
def test_attention_is_drawn_relative_to_an_equal_share(raw: list[float], is_timed: bool) -> None:
    weight = np.array(raw) / sum(raw)
    start = np.arange(len(raw), dtype=float) if is_timed else np.linspace(0, 1, len(raw))
    columns = {
        "audio_weight": [[], weight.tolist()],
        "audio_start": [[], start.tolist()],
        "audio_end": [[], (start + is_timed).tolist()],
    }
    assert _lanes(columns, 0) == []
    [lane] = _lanes(columns, 1)
    assert lane.is_timed == is_timed
    assert lane.weight.mean() == pytest.approx(1)
    np.testing.assert_allclose(lane.weight / len(raw), weight)
    # Positions without length fill the lane from 0 to 1 in equal parts.
    np.testing.assert_allclose(lane.end - lane.start, 1 if is_timed else 1 / len(raw))
    np.testing.assert_allclose(lane.start[1:], lane.end[:-1])
