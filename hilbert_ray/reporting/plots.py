"""The pictures of the report: each takes plain numbers and returns inline SVG.

Their first argument `label` says in words what the picture shows, for readers who do not see it; the table
below each picture has the same numbers. Sizes are in the units of `svg.WIDTH`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hilbert_ray.reporting.html import Html
from hilbert_ray.reporting.plot_data import GRID, CalibrationBins, ClassCurve
from hilbert_ray.reporting.svg import (
    ACCENT,
    INK,
    MUTED,
    PANEL,
    RULE,
    SERIES,
    colour,
    draw,
    legend,
    shorten,
    style,
)
from hilbert_ray.run import LearningPoint


@dataclass(frozen=True, kw_only=True, slots=True)
class ForestRow:
    """One row of a forest plot: a value with its interval; None where there is none."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_marked: bool = False


def forest(
    label: str,
    rows: Sequence[ForestRow],
    axis_name: str,
    reference: float | None = None,
    band: tuple[float, float] | None = None,
) -> Html:
    """Draw values with intervals, one per row, the first on top.

    Args:
        label: what the picture shows, in words.
        rows: the values.
        axis_name: what is measured.
        reference: a value to compare with, such as chance, as a dashed line.
        band: a range to shade, such as the permutation null.
    """

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        if band:
            axis.axvspan(*band, color=MUTED, alpha=0.18, linewidth=0)
        if reference is not None:
            axis.axvline(reference, color=MUTED, linewidth=1, linestyle="--")
        for y, row in enumerate(rows):
            # Marked by width and size below too: colour alone does not reach every reader.
            shade = ACCENT if row.is_marked else INK
            if row.low is not None and row.high is not None:
                axis.plot([row.low, row.high], [y, y], color=shade, linewidth=2 if row.is_marked else 1.4)
            if row.value is not None:
                axis.plot([row.value], [y], marker="o", markersize=6.5 if row.is_marked else 5, color=shade)
        # 25 characters leave more than half of the width to the values.
        axis.set_yticks(range(len(rows)), [shorten(row.name, 25) for row in rows])
        _as_rows(axis, len(rows))
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_xlabel(axis_name)

    return draw(_rows_height(len(rows)), label, paint)


def _as_rows(axis: Axes, count: int) -> None:
    """Leave of the y axis only the names of its rows, the first on top."""
    # Upside down: matplotlib counts upwards, a table is read from the top.
    axis.set_ylim(count - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.grid(axis="y", visible=False)


def _rows_height(count: int) -> int:
    """Return the height of a picture of rows: a fixed part for the x axis, and 24 units per row."""
    return 52 + 24 * count


def curves(
    label: str,
    drawn: Sequence[ClassCurve],
    names: Sequence[str],
    x_name: str,
    y_name: str,
    is_diagonal: bool,
    title: str,
) -> Html:
    """Draw curves over `GRID` in the unit square, such as ROC or precision against recall.

    `names` are those of the legend, and `title` says what the numbers in them are.
    """

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        # Chance is the diagonal of a ROC curve; for precision it differs by class and is in the table.
        if is_diagonal:
            axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for k, (curve, name) in enumerate(zip(drawn, names, strict=True)):
            # A ROC curve starts in the corner, even where its first step is already above 0.
            start = [0.0] if is_diagonal else []
            axis.plot(
                np.append(start, GRID),
                np.append(start, curve.values),
                color=colour(k),
                linestyle=style(k),
                label=shorten(name),
            )
        _unit_square(axis, x_name, y_name)
        legend([axis], title=title)

    # A fixed part for the square and the title, and one line of the legend for every two curves.
    return draw(401 + 18 * ((len(drawn) + 1) // 2), label, paint)


def _unit_square(axis: Axes, x_name: str, y_name: str) -> None:
    # Slightly more than the square, so that a line along its edge is not cut in half.
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x_name, ylabel=y_name)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_aspect("equal")


def reliability(label: str, pooled: CalibrationBins, by_class: Mapping[str, CalibrationBins]) -> Html:
    """Draw observed shares against predicted probabilities: pooled in bold, each class thin; counts below.

    Only bins with enough documents are joined by lines, and only neighbours; the others are faint points.
    """

    def paint(axes: Sequence[Axes]) -> None:
        axis, counts_axis = axes
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        # A single class is the pooled line again.
        if len(by_class) > 1:
            for k, (name, bins) in enumerate(by_class.items()):
                look = {"color": colour(k), "linestyle": style(k), "linewidth": 1, "alpha": 0.75}
                _solid_line(axis, bins, shorten(name), look | {"marker": "o", "markersize": 2.5})
        # Under the points, and cut to the square by the axes.
        solid = pooled.is_solid & np.isfinite(pooled.low)
        x, low, high = (v[solid] for v in (pooled.predicted, pooled.low, pooled.high))
        axis.vlines(x, low, high, color=INK, linewidth=1.4, alpha=0.55)
        name = "all together" if len(by_class) > 1 else shorten(next(iter(by_class), ""))
        _solid_line(axis, pooled, f"{name}, 95 % interval", {"color": INK})
        # A bin's point grows with its rows: those with few say little.
        sizes = 12 + 80 * pooled.rows / max(pooled.rows.max(initial=1), 1)
        for is_drawn, face, edge in ((pooled.is_solid, INK, INK), (~pooled.is_solid, "none", MUTED)):
            x, y = pooled.predicted[is_drawn], pooled.observed[is_drawn]
            axis.scatter(x, y, s=sizes[is_drawn], facecolors=face, edgecolors=edge, linewidths=1, zorder=3)
        _unit_square(axis, "", "observed share")
        # The counts below must line up with the bins, which a square would not allow.
        axis.set_aspect("auto")
        axis.tick_params(labelbottom=False)
        legend([axis])
        # Narrower than a bin (0.1) and centred on its mean, so that each bar is below its point.
        counts_axis.bar(pooled.predicted, pooled.rows, width=0.07, color=MUTED, alpha=0.6, linewidth=0)
        counts_axis.set(xlim=(-0.02, 1.02), xlabel="predicted probability", ylabel="rows")
        counts_axis.yaxis.set_major_locator(MaxNLocator(2))

    legend_height = 17 * ((len(by_class) + 2) // 2)
    return draw(420 + legend_height, label, paint, rows=2, height_ratios=[4, 1])


def _solid_line(axis: Axes, bins: CalibrationBins, name: str, look: Mapping[str, Any]) -> None:
    """Draw one line through each stretch of neighbouring bins that have enough documents."""
    # Without any, the class keeps its place in the legend.
    for k, at in enumerate(bins.stretches() or [np.array([], np.int64)]):
        x, y = bins.predicted[at], bins.observed[at]
        axis.plot(x, y, label=name if k == 0 else None, **look)


def decision_curves(
    label: str,
    model: Mapping[str, Mapping[str, Sequence[float]]],
    baseline: Mapping[str, Mapping[str, Sequence[float]]],
) -> Html:
    """Draw net benefit against the threshold, one panel per class: model, baseline, everyone and no one."""
    names = list(model)
    # Three columns would be too small to read on a phone, and one panel uses all the room.
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for axis, name in zip(axes, names, strict=False):
            curve = model[name]
            # Net benefit is at most the prevalence: each class needs its own scale.
            top = max(*curve["model"], *curve["all"], 0.01)
            axis.axhline(0, color=MUTED, linewidth=1)
            lines = [(curve["all"], MUTED, "--", "act on everyone")]
            if name in baseline:
                lines.append((baseline[name]["model"], SERIES[1], "-", "mean + std baseline"))
            lines.append((curve["model"], ACCENT, "-", "HILBERT"))
            for values, shade, dash, name_of_line in lines:
                # Cut below what is visible (-0.2), so that a line leaves the panel and does not seem to end
                # in it.
                x, y = _above(curve["thresholds"], values, -0.3 * top)
                axis.plot(x, y, color=shade, linestyle=dash, linewidth=1.6, label=name_of_line)
            axis.set(
                xlim=(0, 1), ylim=(-0.2 * top, 1.08 * top), title=shorten(name, 20 if columns == 2 else 42)
            )
            axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axis.yaxis.set_major_locator(MaxNLocator(4))
        # An odd number of panels leaves a place empty.
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        for axis in axes[: len(names)]:
            axis.set_xlabel("threshold")
        # All panels have the same lines. HILBERT is drawn last, to lie on top, but read first.
        legend(axes[:1], 3, is_reversed=True)
        axes[0].figure.supylabel("net benefit", fontsize=12)

    return draw(60 + (150 if columns == 2 else 260) * rows, label, paint, rows=rows, columns=columns)


def _above(x: Sequence[float], y: Sequence[float], floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve without its points below `floor`: net benefit can fall to large negative numbers."""
    is_above = np.asarray(y) > floor
    return np.asarray(x)[is_above], np.asarray(y)[is_above]


def scatter(label: str, true: np.ndarray, predicted: np.ndarray, name: str) -> Html:
    """Draw predicted against true numbers with the line of equality."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        # Over both ranges: predictions shrink towards the mean, so that their own range is too short.
        ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
        axis.plot(ends, ends, color=MUTED, linewidth=1, linestyle="--")
        axis.plot(true, predicted, color=ACCENT, linestyle="", marker="o", markersize=5, alpha=0.65)
        axis.set(xlabel=f"true {shorten(name)}", ylabel=f"predicted {shorten(name)}")

    return draw(400, label, paint)


def histogram(label: str, edges: np.ndarray, count: np.ndarray, median: float, name: str) -> Html:
    """Draw how many documents have a number in each bin; `median` is dashed."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        axis.bar(edges[:-1], count, width=np.diff(edges), align="edge", color=ACCENT, alpha=0.75, linewidth=0)
        axis.axvline(median, color=INK, linewidth=1, linestyle="--")
        axis.set(xlabel=shorten(name, 40), ylabel="documents")
        axis.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axis.grid(axis="x", visible=False)

    return draw(210, label, paint)


def stacked(label: str, rows: Sequence[tuple[str, Sequence[float]]], names: Sequence[str]) -> Html:
    """Draw shares that sum to 1 as parts of one bar per row, each part with its percentage where it fits."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        left = np.zeros(len(rows))
        for k, name in enumerate(names):
            share = np.array([values[k] for _, values in rows])
            axis.barh(
                range(len(rows)), share, left=left, height=0.62, color=colour(k), label=name, linewidth=0
            )
            for y, (start, width) in enumerate(zip(left, share, strict=True)):
                # Narrower parts have no room for the number, which the table has.
                if width >= 0.09:
                    middle = start + width / 2
                    axis.text(
                        middle, y, f"{100 * width:.0f} %", ha="center", va="center", color=PANEL, fontsize=11
                    )
            left = left + share
        axis.set_yticks(range(len(rows)), [shorten(name, 20) for name, _ in rows])
        axis.set(xlim=(0, 1))
        axis.set_xticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        _as_rows(axis, len(rows))
        legend([axis], 3)

    return draw(72 + 30 * len(rows), label, paint)


def learning_curves(
    label: str, curves: Mapping[str, Sequence[LearningPoint]], y_name: str, chance: float
) -> Html:
    """Draw scores with their intervals by number of labels, one line per variant."""
    labels = [point.labels for points in curves.values() for point in points]
    # Doubling the labels is the natural step where they span an order of magnitude.
    is_log = min(labels, default=1) > 0 and max(labels, default=1) >= 5 * min(labels, default=1)

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        axis.axhline(chance, color=MUTED, linewidth=1, linestyle="--")
        span = max(labels, default=1) - min(labels, default=0)
        for k, (name, points) in enumerate(curves.items()):
            known = [point for point in points if point.within is not None]
            x = np.array([point.labels for point in known], np.float64)
            y = np.array([point.within for point in known], np.float64)
            # Apart from each other, so that intervals at the same number of labels can be told apart.
            step = k - (len(curves) - 1) / 2
            x = x * 1.025**step if is_log else x + 0.008 * span * step
            for at, point in zip(x, known, strict=True):
                if point.low is not None and point.high is not None:
                    axis.plot([at, at], [point.low, point.high], color=colour(k), linewidth=1, alpha=0.6)
            axis.plot(
                x, y, color=colour(k), linestyle=style(k), marker=MARKERS[k % len(MARKERS)], markersize=4.5,
                label=shorten(name), linewidth=2.2 if k == 0 else 1.4,
            )  # fmt: skip
        ticks = sorted({round(value) for value in labels})
        if is_log:
            axis.set_xscale("log")
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.set(xlabel="labelled documents in training", ylabel=y_name)
        axis.yaxis.set_major_locator(MaxNLocator(5))
        legend([axis])

    return draw(290 + 18 * ((len(curves) + 1) // 2), label, paint)


def retrieval(label: str, rows: Sequence[ForestRow], chance: Sequence[float | None]) -> Html:
    """Draw retrieval scores with their intervals, each with a mark where chance would be."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        for y, (row, level) in enumerate(zip(rows, chance, strict=True)):
            # One mark per row instead of a common line: chance differs by measure and gallery.
            if level is not None:
                axis.plot(
                    [level], [y], marker="|", markersize=13, markeredgewidth=2, color=MUTED, linestyle=""
                )
            if row.low is not None and row.high is not None:
                axis.plot([row.low, row.high], [y, y], color=ACCENT, linewidth=1.8)
            if row.value is not None:
                axis.plot([row.value], [y], marker="o", markersize=5.5, color=ACCENT)
        # These names are ours and fit; names that users choose are shortened.
        axis.set_yticks(range(len(rows)), [row.name for row in rows])
        axis.set(xlim=(-0.02, 1.02), xlabel="share of queries (MRR: mean of 1 / rank)")
        _as_rows(axis, len(rows))

    return draw(_rows_height(len(rows)), label, paint)


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbeddingMap:
    """Documents of one test set on a plane: points [documents, 2] and class indices (-1: unlabelled)."""

    title: str
    points: np.ndarray
    classes: np.ndarray


MARKERS = "osD^vPX*"
"""One shape per class, so that classes are told apart without colour too."""


def maps(label: str, panels: Sequence[EmbeddingMap], names: Sequence[str]) -> Html:
    """Draw one panel per test set, coloured by class."""
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for axis, panel in zip(axes, panels, strict=False):
            for k in (*range(len(names)), -1):
                x, y = panel.points[panel.classes == k].T
                marker_style = (
                    {"color": colour(k), "alpha": 0.85} if k >= 0 else {"color": MUTED, "fillstyle": "none"}
                )
                name = shorten(names[k], 20) if k >= 0 else "unlabelled"
                marker = MARKERS[k % len(MARKERS)] if k >= 0 else "o"
                # A class without documents here still has its place in the shared legend.
                if len(x) or k >= 0:
                    axis.plot(x, y, linestyle="", marker=marker, markersize=4.6, label=name, **marker_style)
            axis.set_title(panel.title)
            axis.set(xticks=[], yticks=[])
            # Axes of different folds are not comparable, so there are no ticks to compare them by.
            axis.margins(0.08)
            for side in ("top", "right", "left", "bottom"):
                axis.spines[side].set_visible(True)
                axis.spines[side].set_color(RULE)
        for axis in axes[len(panels) :]:
            axis.set_visible(False)
        # From all panels: unlabelled documents may occur in some only.
        legend(axes[: len(panels)])

    height = 20 + 9 * (len(names) + 2) + (205 if columns == 2 else 380) * rows
    return draw(height, label, paint, rows=rows, columns=columns)


EpochCurve = tuple[str, np.ndarray, np.ndarray]
"""Name, epochs, and the value at each."""


def lines(
    label: str,
    curves: Sequence[EpochCurve],
    y_name: str,
    faint: Sequence[EpochCurve] = (),
    height: int = 300,
) -> Html:
    """Draw values by epoch; a `faint` curve (a single network) has the colour of the curve of its name."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        # By name and not by index: several faint curves belong to one mean.
        shades = {name: colour(k) for k, (name, _, _) in enumerate(curves)}
        # Single networks first, so that the mean lies on top.
        for name, x, y in faint:
            axis.plot(x, y, color=shades[name], linewidth=0.8, alpha=0.4)
        for name, x, y in curves:
            axis.plot(x, y, color=shades[name], label=name)
        axis.set(xlabel="epoch", ylabel=y_name)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend([axis])

    return draw(height, label, paint)


def panels(label: str, curves: Sequence[EpochCurve], x_name: str) -> Html:
    """Draw small panels side by side, one per curve: loss terms by epoch, whose scales differ."""
    rows = -(-len(curves) // 2)

    def paint(axes: Sequence[Axes]) -> None:
        # No shared scale: terms differ by orders of magnitude, and the small ones would be flat.
        for axis, (name, x, y) in zip(axes, curves, strict=False):
            axis.plot(x, y, color=ACCENT)
            axis.set_title(shorten(name, 30))
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.set_xlabel(x_name)
        for axis in axes[len(curves) :]:
            axis.set_visible(False)

    return draw(20 + 135 * rows, label, paint, rows=rows, columns=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingAxis:
    """A searched setting: where each trial's value lies in [0, 1], and the labels of some places there."""

    name: str
    places: np.ndarray
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialMarks:
    """How trials are told apart: which finished all inner folds, are among the best, are the defaults."""

    is_finished: np.ndarray
    is_best: np.ndarray
    is_default: np.ndarray

    def styles(self) -> list[tuple[np.ndarray, dict[str, Any], str]]:
        """Return the kinds of trials in drawing order: which ones, matplotlib's settings, and the legend."""
        # The kinds do not overlap, and those of most interest come last, on top.
        plain = ~self.is_best & ~self.is_default
        return [
            (plain & ~self.is_finished, {"color": MUTED, "alpha": 0.5, "fillstyle": "none"}, "stopped early"),
            (plain & self.is_finished, {"color": MUTED, "alpha": 0.8}, "other trials"),
            (self.is_best & ~self.is_default, {"color": ACCENT}, "best trials"),
            (self.is_default, {"color": SERIES[1], "marker": "D"}, "defaults"),
        ]


def parallel_coordinates(label: str, settings: Sequence[SettingAxis], marks: TrialMarks) -> Html:
    """Draw each trial as a line through its values, one row per setting; the last row is the score.

    The usual axes side by side would leave no room for names and ends on a phone, so they are rows here.
    """

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        places = np.stack([setting.places for setting in settings], 1)
        rows = range(len(settings))
        for is_drawn, mark, name in marks.styles():
            width = {"linewidth": 2.2, "alpha": 1.0} if "alpha" not in mark else {"linewidth": 0.9}
            # Dashes tell the kinds apart without colour, as the markers do in `slices`.
            dash = ":" if mark.get("fillstyle") else "--" if "marker" in mark else "-"
            line_style = {key: value for key, value in mark.items() if key in ("color", "alpha")} | width
            for k, values in enumerate(places[is_drawn]):
                axis.plot(values, rows, linestyle=dash, label=name if k == 0 else None, **line_style)
        _name_rows(axis, settings)
        axis.set(xlim=(-0.03, 1.03), ylim=(len(settings) - 0.6, -0.6))
        # Rows are the axes here, each with ticks of its own, written as text.
        axis.axis("off")
        legend([axis])

    return draw(50 + 62 * len(settings), label, paint)


def _name_rows(axis: Axes, settings: Sequence[SettingAxis]) -> None:
    """Write each setting's name and ticks into its row, on a background that lines do not cross."""
    ground = {"facecolor": PANEL, "edgecolor": "none", "pad": 0.6}
    on_top: dict[str, Any] = {"va": "center", "zorder": 5, "bbox": ground}
    for row, setting in enumerate(settings):
        axis.axhline(row, color=RULE, linewidth=1, zorder=0)
        axis.text(0, row - 0.34, shorten(setting.name, 40), fontsize=12, ha="left", **on_top)
        for k, (place, name) in enumerate(setting.ticks):
            # Outer ticks grow inwards: long values would leave the picture otherwise.
            side = "left" if k == 0 else "right" if k == len(setting.ticks) - 1 else "center"
            axis.text(place, row + 0.22, shorten(name, 14), fontsize=11, ha=side, color=MUTED, **on_top)


def slices(label: str, settings: Sequence[SettingAxis], score: np.ndarray, marks: TrialMarks) -> Html:
    """Draw the score of each trial by each searched setting, one panel per setting."""
    columns = 2 if len(settings) > 1 else 1
    rows = -(-len(settings) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for k, (axis, setting) in enumerate(zip(axes, settings, strict=False)):
            for is_drawn, mark, name in marks.styles():
                marker: dict[str, Any] = {"marker": "o", "markersize": 4.5} | mark
                axis.plot(setting.places[is_drawn], score[is_drawn], linestyle="", label=name, **marker)
            axis.set_title(shorten(setting.name, 22 if columns == 2 else 44))
            axis.set_xticks([place for place, _ in setting.ticks], [shorten(t, 9) for _, t in setting.ticks])
            # Room for whole markers: many trials lie at the ends of a range.
            axis.set_xlim(-0.06, 1.06)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            if k % columns == 0:
                axis.set_ylabel("score")
        for axis in axes[len(settings) :]:
            axis.set_visible(False)
        legend(axes[:1])

    return draw(50 + 150 * rows, label, paint, rows=rows, columns=columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionLane:
    """Weights of one modality's segments over time, each relative to an equal share (1).

    start, end: seconds where `is_timed`, else positions in [0, 1].
    """

    modality: str
    start: np.ndarray
    end: np.ndarray
    weight: np.ndarray
    is_timed: bool


def timeline(label: str, lanes: Sequence[AttentionLane]) -> Html:
    """Draw the weight of each segment over time, one lane per modality, all on one time axis."""

    def paint(axes: Sequence[Axes]) -> None:
        lane_of = dict(zip(axes, lanes, strict=True))
        # Audio and text share one time axis, so that the same moment is at the same place.
        longest = max((float(lane.end.max()) for lane in lanes if lane.is_timed), default=1.0)
        for k, (axis, lane) in enumerate(lane_of.items()):
            # One polygon for all segments: a path per segment would make pages of long recordings large.
            x = np.stack([lane.start, lane.start, lane.end, lane.end], 1).ravel()
            y = lane.weight[:, None] * np.array([0, 1, 1, 0])
            axis.fill(x, y.ravel(), color=colour(k), alpha=0.75, linewidth=0)
            # Above this line a segment has more than an equal share.
            axis.axhline(1, color=INK, linewidth=0.8, linestyle="--")
            # A transcript without times cannot share the clock of the audio: its lane goes from 0 to 1.
            axis.set(xlim=(0, longest if lane.is_timed else 1.0), ylabel=lane.modality)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.grid(axis="x", visible=False)
            if lane.is_timed:
                axis.set_xticks(times := _round_times(longest), [clock(seconds) for seconds in times])
            axis.set_xlabel("time" if lane.is_timed else "position in the document (0 start, 1 end)")

    return draw(20 + 120 * len(lanes), label, paint, rows=len(lanes))


def _round_times(longest: float) -> list[float]:
    """Return at most six times from 0 to `longest` seconds, at steps that are round on a clock."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1200, 1800)
    # Beyond 2.5 hours (5 x 1800 s), whole hours, as few as keep it at five steps.
    step = next((step for step in steps if longest / step <= 5), 3600 * -(-longest // (5 * 3600)))
    return [step * i for i in range(int(longest // step) + 1)]


def clock(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    # Before it is split: 59.7 s is 1:00 and not 0:60.
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
