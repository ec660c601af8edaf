"""Fundamental frequency and periodicity of speech, frame by frame: Boersma's autocorrelation method.

Boersma 1993, "Accurate short-term analysis of the fundamental frequency and the harmonics-to-noise ratio of a
sampled sound", with the settings that Praat has by default. Frames have 40 ms, three periods of the lowest
pitch, and begin every 10 ms.

Axes: T frames, C candidates.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft

RATE_HZ = 16_000
FRAME = 640
"""Samples per frame, 40 ms."""
HOP = 160
"""Samples from frame to frame, 10 ms."""
FLOOR_HZ, CEILING_HZ = 75.0, 600.0
"""Range of the pitch that is looked for."""
FFT = 1024
"""Length of the transform: a frame, and zeros for the longest lag."""
_CANDIDATES = 15  # the first is that the frame is unvoiced
_SILENCE, _VOICING = 0.03, 0.45
_OCTAVE_COST, _JUMP_COST, _SWITCH_COST = 0.01, 0.35, 0.14
# The autocorrelation is interpolated to this many points per sample, its maxima with a parabola between them.
_OVERSAMPLING = 4
_FRAMES_AT_ONCE = 500

_WINDOW = np.hanning(FRAME + 2)[1:-1]


@dataclass(frozen=True, kw_only=True, slots=True)
class Frames:
    """What the frames of a segment are like.

    power: float64 [T], mean square, weighted by the window, without the frame's mean. spectrum: float64
    [T, FFT // 2 + 1], how much of the power is at each frequency: a row sums to the power. frequency:
    float64 [T, C], pitch of the candidates in Hz, 0 for unvoiced. correlation: float64 [T, C], the
    autocorrelation at their periods, below 1; 0 for unvoiced. peak: float64 [T], the largest magnitude in the
    middle of the frame.
    """

    power: np.ndarray
    spectrum: np.ndarray
    frequency: np.ndarray
    correlation: np.ndarray
    peak: np.ndarray


@dataclass(frozen=True, kw_only=True, slots=True)
class PitchTrack:
    """The pitch of a segment.

    f0: float64 [T], Hz, 0 where a frame is unvoiced. correlation: float64 [T], the autocorrelation at the
    period, which is the fraction of the power that is periodic, below 1; 0 where unvoiced.
    """

    f0: np.ndarray
    correlation: np.ndarray


def analyse(samples: np.ndarray) -> Iterator[Frames]:
    """Yield what the frames of float64 [n] samples are like, n >= FRAME, some hundred frames at a time."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME)[::HOP]
    for first in range(0, len(frames), _FRAMES_AT_ONCE):
        yield _analyse(frames[first : first + _FRAMES_AT_ONCE])


def _analyse(frames: np.ndarray) -> Frames:
    centred = frames - frames.mean(1, keepdims=True)
    half_period = int(RATE_HZ / FLOOR_HZ / 2)
    middle = slice(FRAME // 2 - half_period, FRAME // 2 + half_period)
    spectrum = _spectrum(centred * _WINDOW) / np.square(_WINDOW).sum()
    # Equation 9: the window's own autocorrelation is divided out.
    frequency, correlation = _candidates(_autocorrelation(spectrum) / _WINDOW_CORRELATION)
    return Frames(
        power=spectrum.sum(1),
        spectrum=spectrum,
        frequency=frequency,
        correlation=correlation,
        peak=np.abs(centred[:, middle]).max(1),
    )


def _lags() -> np.ndarray:
    """Return the lags among which periods are looked for, in points of the interpolated autocorrelation."""
    points = RATE_HZ * _OVERSAMPLING
    return np.arange(int(points / CEILING_HZ), int(points / FLOOR_HZ) + 2)


_LAGS = _lags()


def _spectrum(frames: np.ndarray) -> np.ndarray:
    """Return the energy of frames [T, FRAME] at each frequency, [T, FFT // 2 + 1], which sums to theirs."""
    energy = np.abs(fft.rfft(frames, FFT)) ** 2 / FFT
    energy[:, 1:-1] *= 2  # Parseval: all but the first and the last stand for a negative frequency too
    return np.asarray(energy)


def _autocorrelation(spectrum: np.ndarray) -> np.ndarray:
    """Return the autocorrelation from lag 0, where it is 1, on: float32 [T, lags]; 0 for silence.

    It is interpolated to `_OVERSAMPLING` points per sample.
    """
    total = spectrum.sum(1, keepdims=True)
    # float32, once there is neither overflow nor underflow: in half the time, exact to 60 dB and more.
    energy = (spectrum / np.where(total > 0, total, 1)).astype(np.float32)
    size = FFT * _OVERSAMPLING
    energy[:, 0] *= 2
    return np.asarray(fft.irfft(energy, size)[:, : _LAGS[-1] + 2] * (size / 2))


_WINDOW_CORRELATION = _autocorrelation(_spectrum(_WINDOW[None]))[0]


def _candidates(correlation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return pitch in Hz and autocorrelation of the best maxima, each [T, C]; 0 where there are fewer.

    Args:
        correlation: float32 [T, lags], at lags from 0 on.
    """
    first, last = _LAGS[0], _LAGS[-1]
    left, height, right = (correlation[:, first + step : last + 1 + step] for step in (-1, 0, 1))
    is_maximum = (height > left) & (height >= right) & (height > _VOICING / 2)
    ranked = np.where(is_maximum, height - _OCTAVE_COST * np.log2(FLOOR_HZ * _LAGS), -np.inf)
    columns = np.argpartition(-ranked, _CANDIDATES - 2, axis=1)[:, : _CANDIDATES - 1]
    rows = np.arange(len(ranked))[:, None]
    left, height, right = (values[rows, columns] for values in (left, height, right))
    with np.errstate(invalid="ignore", divide="ignore"):
        offset = 0.5 * (left - right) / (left - 2 * height + right)
        frequency = RATE_HZ * _OVERSAMPLING / (_LAGS[columns] + offset)
    height = height - 0.25 * (left - right) * offset
    # Of a short frame the division by the window's correlation may leave more than 1.
    height = np.where(height > 1, 1 / height, height)
    is_candidate = is_maximum[rows, columns] & (frequency >= FLOOR_HZ) & (frequency <= CEILING_HZ)
    unvoiced = np.zeros((len(ranked), 1))
    return (
        np.hstack([unvoiced, np.where(is_candidate, frequency, 0)]),
        np.hstack([unvoiced, np.where(is_candidate, height, 0)]),
    )


def track_pitch(
    frequency: np.ndarray, correlation: np.ndarray, peak: np.ndarray, loudest: float
) -> PitchTrack:
    """Return the candidate of each frame that together are the best path (section 3.2, Viterbi).

    Args:
        frequency: of the candidates of all frames, see `Frames`.
        correlation: of the candidates of all frames.
        peak: of all frames.
        loudest: the largest magnitude of the segment, without its mean.
    """
    is_voiced = frequency > 0
    octaves = np.log2(np.where(is_voiced, frequency, 1))  # above 1 Hz
    # Equations 23 and 24, the latter with the highest pitch in the place of the lowest, as Praat has it.
    strength = correlation - _OCTAVE_COST * (np.log2(CEILING_HZ) - octaves)
    strength = np.where(is_voiced, strength, -np.inf)  # what is no candidate must not be chosen
    relative = peak / loudest if loudest > 0 else np.zeros_like(peak)
    strength[:, 0] = _VOICING + np.maximum(0, 2 - relative / (_SILENCE / (1 + _VOICING)))
    total = strength[0]
    origins = np.zeros(frequency.shape, np.int8)
    every = np.arange(frequency.shape[1])
    for first in range(1, len(frequency), _FRAMES_AT_ONCE):
        last = min(first + _FRAMES_AT_ONCE, len(frequency))
        costs = _transition_costs(is_voiced[first - 1 : last], octaves[first - 1 : last])
        for t, cost in enumerate(costs, first):
            reached = total[:, None] - cost
            origins[t] = reached.argmax(0)
            total = reached[origins[t], every] + strength[t]
    path = np.zeros(len(frequency), np.int64)
    path[-1] = total.argmax()
    for t in range(len(path) - 1, 0, -1):
        path[t - 1] = origins[t, path[t]]
    rows = np.arange(len(path))
    return PitchTrack(f0=frequency[rows, path], correlation=correlation[rows, path])


def _transition_costs(is_voiced: np.ndarray, octaves: np.ndarray) -> np.ndarray:
    """Return what it costs to go from each candidate to each of the next frame, float64 [T - 1, C, C]."""
    before, after = is_voiced[:-1, :, None], is_voiced[1:, None, :]
    jumps = _JUMP_COST * np.abs(octaves[:-1, :, None] - octaves[1:, None, :])
    return np.where(before & after, jumps, np.where(before != after, _SWITCH_COST, 0.0))
