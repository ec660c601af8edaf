"""Glottal periods of voiced speech one by one, and how much they vary: jitter and shimmer.

A period is where the waveform looks most like one period earlier, found by cross-correlation, which noise
disturbs less than peaks or zero crossings do: Boersma 2009, "Should jitter be measured by peak picking or by
waveform matching?".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hilbert_ray.encoders.pitch import FRAME, HOP, RATE_HZ

# The bounds by which Praat tells the next period: how long it may be, relative to the pitch, how alike the
# waveform must be, and how loud relative to the loudest sample.
_SHORTEST, _LONGEST = 0.8, 1.25
_LEAST_CORRELATION, _LEAST_PEAK = 0.3, 0.01
_LONGEST_PERIOD = RATE_HZ * 0.02
"""Samples; what is longer is a gap in the voicing."""
_PERIOD_RATIO, _AMPLITUDE_RATIO = 1.3, 1.6
"""Neighbours that differ by more are no neighbouring periods but an error or a jump of the pitch."""


def voiced_runs(f0: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield first frame and the one after the last of each stretch of voiced frames; `f0` is 0 elsewhere."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], f0 > 0, [0]])))
    for start, stop in edges.reshape(-1, 2):
        yield int(start), int(stop)


def period_marks(samples: np.ndarray, f0: np.ndarray) -> list[np.ndarray]:
    """Return where periods begin, for each stretch of voiced frames: float64 [n], in samples, ascending.

    From the largest excursion in the middle of the stretch, one period at a time in both directions.

    Args:
        samples: float64 [time] at 16 kHz, without their mean.
        f0: float64 [frames], Hz, 0 where unvoiced.
    """
    waveform = _Waveform(
        samples=samples,
        squares=np.concatenate([[0.0], np.cumsum(np.square(samples))]),
        loudest=float(np.abs(samples).max()),
    )
    return [_marks_of_run(waveform, f0, start, stop) for start, stop in voiced_runs(f0)]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Waveform:
    """float64 [time] samples, [time + 1] sums of the squares before each, and the largest magnitude."""

    samples: np.ndarray
    squares: np.ndarray
    loudest: float


def _marks_of_run(waveform: _Waveform, f0: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Return the marks of one stretch, from its first frame up to the one before `stop`."""
    # A frame stands for the hop around its middle.
    first, last = (frame * HOP + FRAME / 2 for frame in (start - 0.5, stop - 0.5))
    middle = (first + last) / 2
    reach = RATE_HZ / _pitch_at(middle, f0, start, stop) / 2
    around = slice(max(round(middle - reach), 0), round(middle + reach) + 1)
    seed = float(around.start + np.abs(waveform.samples[around]).argmax())
    marks = [seed]
    for direction in (-1, 1):
        mark = seed
        while True:
            step = _step(waveform, mark, direction * RATE_HZ / _pitch_at(mark, f0, start, stop))
            mark += step
            if not step or not first <= mark < last:
                break
            marks.append(mark)
    return np.sort(np.array(marks))


def _pitch_at(position: float, f0: np.ndarray, start: int, stop: int) -> float:
    """Return the pitch of a stretch in Hz at a position in samples, interpolated between frames."""
    frame = min(max((position - FRAME / 2) / HOP, start), stop - 1)
    before = int(frame)
    after = min(before + 1, stop - 1)
    return float(f0[before] + (frame - before) * (f0[after] - f0[before]))


def _step(waveform: _Waveform, mark: float, period: float) -> float:
    """Return how far the next period is from a mark, in samples; 0 where there is none.

    Args:
        waveform: the segment.
        mark: where the present period is.
        period: its expected length, negative to look before it.
    """
    samples, squares = waveform.samples, waveform.squares
    size = round(abs(period))
    begin = round(mark) - size // 2
    nearest, farthest = sorted((round(period * _SHORTEST), round(period * _LONGEST)))
    # One more on both sides, for the parabola.
    low, high = begin + nearest - 1, begin + farthest + 2
    if min(begin, low) < 0 or max(begin, high - 1) + size > len(samples):
        return 0.0
    window, region = samples[begin : begin + size], samples[low : high - 1 + size]
    energies = squares[low + size : high + size] - squares[low:high]
    energies = energies * (squares[begin + size] - squares[begin])
    # Below this, differences of sums are rounding alone.
    alike = np.correlate(region, window) / np.sqrt(np.maximum(energies, (1e-12 * squares[-1]) ** 2))
    best = 1 + int(alike[1:-1].argmax())
    left, height, right = alike[best - 1 : best + 2]
    peak = np.abs(samples[low + best : low + best + size]).max()
    if height < _LEAST_CORRELATION or peak < _LEAST_PEAK * waveform.loudest:
        return 0.0
    bend = left - 2 * height + right
    offset = 0.5 * (left - right) / bend if bend < 0 else 0.0
    return float(low - begin + best + min(max(offset, -1.0), 1.0))


def jitter(marks: list[np.ndarray]) -> float:
    """Return the local jitter in percent: mean difference of neighbouring periods over the mean period.

    0 where there are no two neighbouring periods.

    Args:
        marks: of each voiced stretch, see `period_marks`.
    """
    differences, periods = [np.empty(0)], [np.empty(0)]
    for run in marks:
        lengths = np.diff(run)
        before, after = lengths[:-1], lengths[1:]
        is_pair = _are_alike(before, after, _PERIOD_RATIO) & (np.maximum(before, after) <= _LONGEST_PERIOD)
        differences.append(np.abs(after - before)[is_pair])
        periods.append(((after + before) / 2)[is_pair])
    return _relative(np.concatenate(differences), np.concatenate(periods))


def shimmer(samples: np.ndarray, marks: list[np.ndarray]) -> float:
    """Return the local shimmer in percent: mean difference of neighbouring amplitudes over their mean.

    An amplitude is the root mean square around a mark, from a fifth of a period before to a fifth after. 0
    where there are no two neighbouring periods.

    Args:
        samples: float64 [time], without their mean.
        marks: of each voiced stretch, see `period_marks`.
    """
    differences, levels = [np.empty(0)], [np.empty(0)]
    for run in marks:
        if len(run) < 4:
            continue
        lengths = np.diff(run)
        amplitudes = _amplitudes(samples, run[1:-1], lengths[:-1], lengths[1:])
        is_period = _are_alike(lengths[:-1], lengths[1:], _PERIOD_RATIO)
        before, after = amplitudes[:-1], amplitudes[1:]
        is_pair = is_period[:-1] & is_period[1:] & _are_alike(before, after, _AMPLITUDE_RATIO)
        differences.append(np.abs(after - before)[is_pair])
        levels.append(amplitudes[is_period])
    return _relative(np.concatenate(differences), np.concatenate(levels))


def _amplitudes(samples: np.ndarray, marks: np.ndarray, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the root mean square around marks, a Hann window over a fifth of the periods on both sides."""
    reach = int(0.2 * max(before.max(), after.max())) + 1
    positions = np.rint(marks).astype(np.int64)[:, None] + np.arange(-reach, reach + 1)
    distance = positions - marks[:, None]
    relative = np.where(distance < 0, distance / (0.2 * before[:, None]), distance / (0.2 * after[:, None]))
    weights = np.where(np.abs(relative) < 1, 0.5 + 0.5 * np.cos(np.pi * relative), 0)
    values = samples[np.clip(positions, 0, len(samples) - 1)]
    return np.asarray(np.sqrt(np.sum(np.square(values * weights), 1) / np.sum(np.square(weights), 1)))


def _are_alike(before: np.ndarray, after: np.ndarray, ratio: float) -> np.ndarray:
    return np.asarray((after <= ratio * before) & (before <= ratio * after))


def _relative(differences: np.ndarray, values: np.ndarray) -> float:
    """Return the mean difference in percent of the mean value."""
    if not len(differences) or values.mean() <= 0:
        return 0.0
    return float(100 * differences.mean() / values.mean())
