"""The pictures of the report: each takes plain numbers and returns inline SVG.

The tables that stand beside them hold the same numbers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from hilbert_ray.reporting.html import Html
from hilbert_ray.reporting.plot_data import GRID, Curve
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """A value with its interval, a line of a forest plot; None where there is none."""

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    is_marked: bool = False


def forest(
    label: str,
    bars: Sequence[Bar],
    axis_name: str,
    reference: float | None = None,
    band: tuple[float, float] | None = None,
) -> Html:
    """Draw values with intervals, one a line, the first on top.

    Args:
        label: what the picture shows, in words.
        bars: the lines.
        axis_name: what is measured.
        reference: a value to compare with, such as chance.
        band: a range shaded behind, such as the permutation null.
    """

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        if band:
            axis.axvspan(*band, color=MUTED, alpha=0.18, linewidth=0)
        if reference is not None:
            axis.axvline(reference, color=MUTED, linewidth=1, linestyle="--")
        for y, bar in enumerate(bars):
            shade = ACCENT if bar.is_marked else INK
            if bar.low is not None and bar.high is not None:
                axis.plot([bar.low, bar.high], [y, y], color=shade, linewidth=2 if bar.is_marked else 1.4)
            if bar.value is not None:
                axis.plot([bar.value], [y], marker="o", markersize=6.5 if bar.is_marked else 5, color=shade)
        axis.set_yticks(range(len(bars)), [shorten(bar.name, 25) for bar in bars])
        axis.set_ylim(len(bars) - 0.4, -0.6)
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.set_xlabel(axis_name)

    return draw(52 + 24 * len(bars), label, paint)


def curves(
    label: str, found: Sequence[Curve], names: Sequence[str], x_name: str, y_name: str, is_diagonal: bool
) -> Html:
    """Draw curves over `GRID` in the unit square, such as ROC or precision against recall."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        if is_diagonal:
            axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        for k, (curve, name) in enumerate(zip(found, names, strict=True)):
            start = [0.0] if is_diagonal else []  # a ROC curve rises from the corner
            axis.plot(
                np.append(start, GRID),
                np.append(start, curve.values),
                color=colour(k),
                linestyle=style(k),
                label=shorten(name),
            )
        _unit_square(axis, x_name, y_name)
        legend([axis])

    return draw(383 + 18 * ((len(found) + 1) // 2), label, paint)


def _unit_square(axis: Axes, x_name: str, y_name: str) -> None:
    axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=x_name, ylabel=y_name)
    axis.set_xticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axis.set_aspect("equal")


Bins = Mapping[str, Sequence[float]]


def reliability(label: str, pooled: Bins, by_class: Mapping[str, Bins]) -> Html:
    """Draw observed shares against predicted probabilities: pooled in bold, each class thin; counts below."""

    def paint(axes: Sequence[Axes]) -> None:
        axis, below = axes
        axis.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle="--")
        if len(by_class) > 1:
            for k, (name, bins) in enumerate(by_class.items()):
                axis.plot(
                    bins["predicted"],
                    bins["observed"],
                    color=colour(k),
                    linestyle=style(k),
                    linewidth=1,
                    alpha=0.75,
                    label=shorten(name),
                )
        axis.plot(pooled["predicted"], pooled["observed"], color=INK, label="all together")
        sizes = 12 + 80 * np.array(pooled["count"]) / max(pooled["count"])
        axis.scatter(pooled["predicted"], pooled["observed"], s=sizes, color=INK, linewidths=0, zorder=3)
        _unit_square(axis, "", "observed share")
        axis.set_aspect("auto")
        axis.tick_params(labelbottom=False)
        legend([axis])
        below.bar(pooled["predicted"], pooled["count"], width=0.07, color=MUTED, alpha=0.6, linewidth=0)
        below.set(xlim=(-0.02, 1.02), xlabel="predicted probability", ylabel="rows")
        below.yaxis.set_major_locator(MaxNLocator(2))

    extra = 17 * ((len(by_class) + 2) // 2)
    return draw(420 + extra, label, paint, rows=2, height_ratios=[4, 1])


def decision_curves(
    label: str,
    model: Mapping[str, Mapping[str, Sequence[float]]],
    baseline: Mapping[str, Mapping[str, Sequence[float]]],
) -> Html:
    """Draw net benefit against the threshold, a panel a class: model, baseline, everyone and no one."""
    names = list(model)
    columns = 2 if len(names) > 1 else 1
    rows = -(-len(names) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for axis, name in zip(axes, names, strict=False):
            curve = model[name]
            top = max(*curve["model"], *curve["all"], 0.01)
            axis.axhline(0, color=MUTED, linewidth=1)
            lines = [(curve["all"], MUTED, "--", "act on everyone")]
            if name in baseline:
                lines.append((baseline[name]["model"], SERIES[1], "-", "mean + std baseline"))
            lines.append((curve["model"], ACCENT, "-", "HILBERT"))
            for values, shade, dash, said in lines:
                x, y = _above(curve["thresholds"], values, -0.3 * top)
                axis.plot(x, y, color=shade, linestyle=dash, linewidth=1.6, label=said)
            axis.set(
                xlim=(0, 1), ylim=(-0.2 * top, 1.08 * top), title=shorten(name, 20 if columns == 2 else 42)
            )
            axis.set_xticks([0, 0.5, 1], ["0", "0.5", "1"])
            axis.yaxis.set_major_locator(MaxNLocator(4))
        for axis in axes[len(names) :]:
            axis.set_visible(False)
        for axis in axes[: len(names)]:
            axis.set_xlabel("threshold")
        legend(axes[:1], 3, is_reversed=True)
        axes[0].figure.supylabel("net benefit", fontsize=12)

    return draw(60 + (150 if columns == 2 else 260) * rows, label, paint, rows=rows, columns=columns)


def _above(x: Sequence[float], y: Sequence[float], floor: float) -> tuple[np.ndarray, np.ndarray]:
    """Return a curve without what lies far below the picture."""
    kept = np.asarray(y) > floor
    return np.asarray(x)[kept], np.asarray(y)[kept]


def scatter(label: str, true: np.ndarray, predicted: np.ndarray, name: str) -> Html:
    """Draw predicted against true numbers with the line of equality."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        ends = [float(min(true.min(), predicted.min())), float(max(true.max(), predicted.max()))]
        axis.plot(ends, ends, color=MUTED, linewidth=1, linestyle="--")
        axis.plot(true, predicted, color=ACCENT, linestyle="", marker="o", markersize=5, alpha=0.65)
        axis.set(xlabel=f"true {shorten(name)}", ylabel=f"predicted {shorten(name)}")

    return draw(400, label, paint)


def retrieval(label: str, bars: Sequence[Bar], chance: Sequence[float | None]) -> Html:
    """Draw retrieval scores with their intervals, each beside what chance gives."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        for y, (bar, level) in enumerate(zip(bars, chance, strict=True)):
            if level is not None:
                axis.plot(
                    [level], [y], marker="|", markersize=13, markeredgewidth=2, color=MUTED, linestyle=""
                )
            if bar.low is not None and bar.high is not None:
                axis.plot([bar.low, bar.high], [y, y], color=ACCENT, linewidth=1.8)
            if bar.value is not None:
                axis.plot([bar.value], [y], marker="o", markersize=5.5, color=ACCENT)
        axis.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axis.set(
            ylim=(len(bars) - 0.4, -0.6),
            xlim=(-0.02, 1.02),
            xlabel="share of queries (MRR: mean of 1 / rank)",
        )
        axis.tick_params(axis="y", length=0)
        axis.spines["left"].set_visible(False)
        axis.grid(axis="y", visible=False)

    return draw(52 + 24 * len(bars), label, paint)


@dataclass(frozen=True, kw_only=True, slots=True)
class Map:
    """Documents of one test set on a plane, each with the index of its class (-1: unlabelled)."""

    title: str
    points: np.ndarray
    classes: np.ndarray


MARKERS = "osD^vPX*"


def maps(label: str, found: Sequence[Map], names: Sequence[str]) -> Html:
    """Draw a panel a test set, coloured by class."""
    columns = 2 if len(found) > 1 else 1
    rows = -(-len(found) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for axis, part in zip(axes, found, strict=False):
            for k in (*range(len(names)), -1):
                x, y = part.points[part.classes == k].T
                look = (
                    {"color": colour(k), "alpha": 0.85} if k >= 0 else {"color": MUTED, "fillstyle": "none"}
                )
                said = shorten(names[k], 20) if k >= 0 else "unlabelled"
                mark = MARKERS[k % len(MARKERS)] if k >= 0 else "o"
                if len(x) or k >= 0:
                    axis.plot(x, y, linestyle="", marker=mark, markersize=4.6, label=said, **look)
            axis.set_title(part.title)
            axis.set(xticks=[], yticks=[])
            axis.margins(0.08)
            for side in ("top", "right", "left", "bottom"):
                axis.spines[side].set_visible(True)
                axis.spines[side].set_color(RULE)
        for axis in axes[len(found) :]:
            axis.set_visible(False)
        legend(axes[: len(found)])

    height = 20 + 9 * (len(names) + 2) + (205 if columns == 2 else 380) * rows
    return draw(height, label, paint, rows=rows, columns=columns)


Line = tuple[str, np.ndarray, np.ndarray]


def lines(
    label: str, found: Sequence[Line], y_name: str, faint: Sequence[Line] = (), height: int = 300
) -> Html:
    """Draw values by epoch; `faint` lines (single networks) have the colour of the line of their name."""

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        shades = {name: colour(k) for k, (name, _, _) in enumerate(found)}
        for name, x, y in faint:
            axis.plot(x, y, color=shades[name], linewidth=0.8, alpha=0.4)
        for name, x, y in found:
            axis.plot(x, y, color=shades[name], label=name)
        axis.set(xlabel="epoch", ylabel=y_name)
        axis.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        legend([axis])

    return draw(height, label, paint)


def panels(label: str, found: Sequence[Line], x_name: str) -> Html:
    """Draw small panels side by side, one a line: loss terms by epoch."""
    rows = -(-len(found) // 2)

    def paint(axes: Sequence[Axes]) -> None:
        for axis, (name, x, y) in zip(axes, found, strict=False):
            axis.plot(x, y, color=ACCENT)
            axis.set_title(shorten(name, 30))
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.set_xlabel(x_name)
        for axis in axes[len(found) :]:
            axis.set_visible(False)

    return draw(20 + 135 * rows, label, paint, rows=rows, columns=2)


@dataclass(frozen=True, kw_only=True, slots=True)
class SettingAxis:
    """A searched setting: where each trial's value lies between 0 and 1, and what some places are called."""

    name: str
    places: np.ndarray
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialMarks:
    """How trials are told apart: whether each saw all inner folds, is among the best, is the defaults."""

    is_whole: np.ndarray
    is_best: np.ndarray
    is_default: np.ndarray

    def looks(self) -> list[tuple[np.ndarray, dict[str, Any], str]]:
        """Return which trials to draw after one another, how, and what they are called."""
        plain = ~self.is_best & ~self.is_default
        return [
            (plain & ~self.is_whole, {"color": MUTED, "alpha": 0.5, "fillstyle": "none"}, "stopped early"),
            (plain & self.is_whole, {"color": MUTED, "alpha": 0.8}, "other trials"),
            (self.is_best & ~self.is_default, {"color": ACCENT}, "best trials"),
            (self.is_default, {"color": SERIES[1], "marker": "D"}, "defaults"),
        ]


def parallel_coordinates(label: str, scales: Sequence[SettingAxis], shown: TrialMarks) -> Html:
    """Draw each trial as a line through its values, a row a setting; the last row is the score.

    The rows lie below one another, so that names and ends have room on a phone.
    """

    def paint(axes: Sequence[Axes]) -> None:
        (axis,) = axes
        places = np.stack([scale.places for scale in scales], 1)
        rows = range(len(scales))
        for kept, look, name in shown.looks():
            style = {"linewidth": 2.2, "alpha": 1.0} if "alpha" not in look else {"linewidth": 0.9}
            dash = ":" if look.get("fillstyle") else "--" if "marker" in look else "-"
            drawn = {key: value for key, value in look.items() if key in ("color", "alpha")} | style
            for k, values in enumerate(places[kept]):
                axis.plot(values, rows, linestyle=dash, label=name if k == 0 else None, **drawn)
        behind = {"facecolor": PANEL, "edgecolor": "none", "pad": 0.6}
        on_top: dict[str, Any] = {"va": "center", "zorder": 5, "bbox": behind}
        for row, scale in zip(rows, scales, strict=True):
            axis.axhline(row, color=RULE, linewidth=1, zorder=0)
            axis.text(0, row - 0.34, shorten(scale.name, 40), fontsize=12, ha="left", **on_top)
            for k, (place, name) in enumerate(scale.ticks):
                side = "left" if k == 0 else "right" if k == len(scale.ticks) - 1 else "center"
                axis.text(place, row + 0.22, shorten(name, 14), fontsize=11, ha=side, color=MUTED, **on_top)
        axis.set(xlim=(-0.03, 1.03), ylim=(len(scales) - 0.6, -0.6))
        axis.axis("off")
        legend([axis])

    return draw(50 + 62 * len(scales), label, paint)


def slices(label: str, scales: Sequence[SettingAxis], score: np.ndarray, shown: TrialMarks) -> Html:
    """Draw the score of each trial by each searched setting, a panel a setting."""
    columns = 2 if len(scales) > 1 else 1
    rows = -(-len(scales) // columns)

    def paint(axes: Sequence[Axes]) -> None:
        for k, (axis, scale) in enumerate(zip(axes, scales, strict=False)):
            for kept, look, name in shown.looks():
                mark: dict[str, Any] = {"marker": "o", "markersize": 4.5} | look
                axis.plot(scale.places[kept], score[kept], linestyle="", label=name, **mark)
            axis.set_title(shorten(scale.name, 22 if columns == 2 else 44))
            axis.set_xticks([place for place, _ in scale.ticks], [shorten(t, 9) for _, t in scale.ticks])
            axis.set_xlim(-0.06, 1.06)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            if k % columns == 0:
                axis.set_ylabel("score")
        for axis in axes[len(scales) :]:
            axis.set_visible(False)
        legend(axes[:1])

    return draw(50 + 150 * rows, label, paint, rows=rows, columns=columns)


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """Weights of one modality's segments along time, each relative to an equal share (1)."""

    name: str
    start: np.ndarray
    end: np.ndarray
    weight: np.ndarray
    is_timed: bool


def timeline(label: str, lanes: Sequence[Lane]) -> Html:
    """Draw the weight of each segment along time, a lane a modality."""

    def paint(axes: Sequence[Axes]) -> None:
        shown = dict(zip(axes, lanes, strict=True))
        longest = max((float(lane.end.max()) for lane in lanes if lane.is_timed), default=1.0)
        for k, (axis, lane) in enumerate(shown.items()):
            x = np.stack([lane.start, lane.start, lane.end, lane.end], 1).ravel()
            y = lane.weight[:, None] * np.array([0, 1, 1, 0])
            axis.fill(x, y.ravel(), color=colour(k), alpha=0.75, linewidth=0)
            axis.axhline(1, color=INK, linewidth=0.8, linestyle="--")
            axis.set(xlim=(0, longest if lane.is_timed else 1.0), ylabel=lane.name)
            axis.yaxis.set_major_locator(MaxNLocator(3))
            axis.grid(axis="x", visible=False)
            if lane.is_timed:
                axis.set_xticks(times := _round_times(longest), [clock(seconds) for seconds in times])
        for axis, lane in shown.items():
            axis.set_xlabel("time" if lane.is_timed else "place in the document (0 start, 1 end)")

    return draw(20 + 120 * len(lanes), label, paint, rows=len(lanes))


def _round_times(longest: float) -> list[float]:
    """Return at most six times from 0 to `longest` seconds, at steps that clocks show well."""
    steps = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1200, 1800)
    step = next((step for step in steps if longest / step <= 5), 3600 * -(-longest // (5 * 3600)))
    return [step * i for i in range(int(longest // step) + 1)]


def clock(seconds: float) -> str:
    """Return a time as m:ss or h:mm:ss."""
    whole = round(seconds)
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"
