"""The built-in encoder `prosody`: pitch, voice quality, loudness, spectral slope and timing of a segment.

Each feature has a name and a unit, see `NAMES`; most are functionals of the GeMAPS (Eyben et al. 2016, "The
Geneva Minimalistic Acoustic Parameter Set"). `pitch` and `periods` compute what they are made of.

scipy.signal, which takes a second to import, is imported at first use, as in `builtin`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hilbert_ray.config import Modality, SegmentConfig, to_dict
from hilbert_ray.document import AudioSegment, Hertz, Samples, Segment
from hilbert_ray.encoders.builtin import OPTIONS
from hilbert_ray.encoders.periods import jitter, period_marks, shimmer, voiced_runs
from hilbert_ray.encoders.pitch import FFT, FRAME, HOP, RATE_HZ, Frames, PitchTrack, analyse, track_pitch
from hilbert_ray.encoders.protocol import fingerprint_of
from hilbert_ray.segmentation import segmentation

VERSION = 1
"""Version of what is computed, part of the fingerprint: raise it when a segment gives another feature."""
NAMES: Mapping[str, str] = {
    "f0_mean": "st",
    "f0_sd": "st",
    "f0_p20": "st",
    "f0_p50": "st",
    "f0_p80": "st",
    "f0_slope": "st/s",
    "f0_change": "st/s",
    "voiced_share": "%",
    "voiced_runs": "1/s",
    "voiced_run_mean": "s",
    "voiced_run_sd": "s",
    "jitter": "%",
    "shimmer": "%",
    "hnr_mean": "dB",
    "hnr_sd": "dB",
    "level_mean": "dB",
    "level_sd": "dB",
    "level_p20": "dB",
    "level_p50": "dB",
    "level_p80": "dB",
    "alpha_ratio_mean": "dB",
    "alpha_ratio_sd": "dB",
    "hammarberg_mean": "dB",
    "hammarberg_sd": "dB",
    "slope_0_500_mean": "dB/kHz",
    "slope_0_500_sd": "dB/kHz",
    "slope_500_1500_mean": "dB/kHz",
    "slope_500_1500_sd": "dB/kHz",
    "syllables": "1/s",
    "articulation": "1/s",
    "pause_share": "%",
    "pauses": "1/s",
    "pause_mean": "s",
}
"""The features in their order, each with its unit; docs/encoders.md says what they mean."""

_SEMITONES_FROM_HZ = 27.5
_PERIODIC = 1e-6  # of the power is the least that counts as noise: HNR is 60 dB at most
_QUIETEST = 1e-10
"""Mean square that counts as silence, 100 dB below full scale: about the rounding of 16 bits."""
_PAUSE_DB, _PAUSE_FRAMES = 25.0, 30
"""A pause is 0.3 s or more at 25 dB below the loud frames (99th percentile): de Jong and Wempe 2009."""
_DIP_DB = 2.0
"""How far the level must fall between two syllables: de Jong and Wempe 2009."""
_SMOOTHING = np.hanning(11)[1:-1]
"""Over the level, 90 ms, before its peaks are counted: no two syllables are nearer."""
_LAG = len(_SMOOTHING) // 2
"""Frames by which that is late."""
_CHANGE_FRAMES = 5
"""Frames over which the pitch must be voiced for its change to count, 50 ms."""


class Prosody:
    """Functionals of pitch, voice quality, loudness, spectral slope and timing, each with a name.

    Segments are computed one by one, so batches cannot matter. Those below 40 ms are padded with zeros.
    """

    modality: Modality = "audio"
    name = "prosody"
    rate_hz: Hertz = RATE_HZ
    fill: Samples = 0
    max_tokens: int | None = None
    dim = len(NAMES)

    def __init__(self, segment: SegmentConfig) -> None:
        self.segment = segment
        self.fingerprint = fingerprint_of(self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"name": self.name, "version": VERSION, "cutting": segmentation(self.segment, "audio")}

    def describe(self) -> dict[str, Any]:
        """Return what decides the features, as plain values, and the names of their columns."""
        return {
            **self._facts(), "spec": self.name, "dim": self.dim, "names": [*NAMES],
            "options": OPTIONS, "segment": to_dict(self.segment), "rate_hz": self.rate_hz,
            "fingerprint": self.fingerprint,
        }  # fmt: skip

    def encode(self, segments: Sequence[Segment]) -> np.ndarray:
        """Return features float32 [n, 33] of audio segments at 16 kHz, in the order and units of `NAMES`."""
        _peak_finder()  # loaded even without segments; see `Encoder.encode`
        features = np.zeros((len(segments), self.dim), np.float32)
        for row, segment in enumerate(segments):
            assert isinstance(segment, AudioSegment)
            values = functionals(segment.samples)
            features[row] = [values[name] for name in NAMES]
        return features

    def rehearse(self) -> None:
        """There are no weights that might not load."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Audio has no tokens."""
        raise TypeError("prosody encodes audio; it has no tokens")

    def split(self, text: str, limit: int) -> list[str]:
        """Audio has no tokens."""
        raise TypeError("prosody encodes audio; it has no tokens")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Contours:
    """What the functionals are taken of, frame by frame: float64 [frames]; levels in dB of full scale."""

    track: PitchTrack
    level: np.ndarray
    spectral: Mapping[str, np.ndarray]


def functionals(samples: np.ndarray) -> dict[str, float]:
    """Return the value of each of `NAMES` for float [time] samples at 16 kHz.

    What cannot be measured is 0: all of pitch, voice quality and spectrum where no frame is voiced.
    """
    padded = np.zeros(max(len(samples), FRAME))
    padded[: len(samples)] = samples
    padded -= padded.mean()
    contours = _contours(padded)
    f0 = contours.track.f0
    runs = list(voiced_runs(f0))
    marks = period_marks(padded, f0)
    return {
        **_pitch(f0, runs),
        **_voicing(f0, runs),
        "jitter": jitter(marks),
        "shimmer": shimmer(padded, marks),
        **_mean_sd("hnr", _hnr(contours.track)),
        **_timing_and_level(contours.level, f0),
        **{
            key: value
            for name, values in contours.spectral.items()
            for key, value in _mean_sd(name, values[f0 > 0]).items()
        },
    }


def _contours(samples: np.ndarray) -> _Contours:
    """Return the contours of float64 samples without their mean."""
    frequency, correlation, peak, level = [], [], [], []
    spectral: dict[str, list[np.ndarray]] = {}
    for frames in analyse(samples):
        frequency.append(frames.frequency)
        correlation.append(frames.correlation)
        peak.append(frames.peak)
        level.append(_decibels(frames.power))
        for name, values in spectral_shape(frames).items():
            spectral.setdefault(name, []).append(values)
    track = track_pitch(
        np.concatenate(frequency), np.concatenate(correlation), np.concatenate(peak), np.abs(samples).max()
    )
    return _Contours(
        track=track,
        level=np.concatenate(level),
        spectral={name: np.concatenate(values) for name, values in spectral.items()},
    )


def _decibels(power: np.ndarray) -> np.ndarray:
    """Return powers in dB, at least -100."""
    return np.asarray(10 * np.log10(np.maximum(power, _QUIETEST)))


def spectral_shape(frames: Frames) -> dict[str, np.ndarray]:
    """Return how the power of T frames falls with frequency: float64 [T] of each of the GeMAPS's measures."""
    hz = np.arange(FFT // 2 + 1) * RATE_HZ / FFT
    # Relative to the frame, so that no level but that of the voice decides what is too quiet to count.
    spectrum = frames.spectrum / np.maximum(frames.power, np.finfo(np.float64).tiny)[:, None]

    def band(low: float, high: float) -> np.ndarray:
        return np.asarray(spectrum[:, (hz >= low) & (hz < high)])

    def slope(low: float, high: float) -> np.ndarray:
        """Return the slope of a line through the levels of a band, in dB per kHz."""
        khz = hz[(hz >= low) & (hz < high)] / 1000
        centred = khz - khz.mean()
        return np.asarray(_decibels(band(low, high)) @ centred / np.square(centred).sum())

    return {
        "alpha_ratio": _decibels(band(50, 1000).sum(1)) - _decibels(band(1000, 5000).sum(1)),
        "hammarberg": _decibels(band(0, 2000).max(1)) - _decibels(band(2000, 5000).max(1)),
        "slope_0_500": slope(0, 500),
        "slope_500_1500": slope(500, 1500),
    }


def _hnr(track: PitchTrack) -> np.ndarray:
    """Return the harmonics-to-noise ratio of the voiced frames in dB: Boersma 1993, equation 4."""
    periodic = np.clip(track.correlation[track.f0 > 0], _PERIODIC, 1 - _PERIODIC)
    return np.asarray(10 * np.log10(periodic / (1 - periodic)))


def _pitch(f0: np.ndarray, runs: Sequence[tuple[int, int]]) -> dict[str, float]:
    voiced = np.flatnonzero(f0)
    semitones = 12 * np.log2(f0[voiced] / _SEMITONES_FROM_HZ)
    times = voiced * HOP / RATE_HZ
    centred = times - times.mean() if len(times) else times
    spread = np.square(centred).sum()
    p20, p50, p80 = np.percentile(semitones, [20, 50, 80]) if len(voiced) else (0.0, 0.0, 0.0)
    return {
        **_mean_sd("f0", semitones),
        "f0_p20": float(p20),
        "f0_p50": float(p50),
        "f0_p80": float(p80),
        "f0_slope": float(centred @ semitones / spread) if spread > 0 else 0.0,
        "f0_change": _mean_change(f0, runs),
    }


def _mean_change(f0: np.ndarray, runs: Sequence[tuple[int, int]]) -> float:
    """Return how fast the pitch moves: the mean magnitude of its slope over 50 ms, in st/s."""
    half = _CHANGE_FRAMES // 2
    offsets = np.arange(-half, half + 1)
    slopes = [
        np.convolve(12 * np.log2(f0[start:stop]), offsets[::-1], "valid")
        for start, stop in runs
        if stop - start >= _CHANGE_FRAMES
    ]
    if not slopes:
        return 0.0
    per_frame = np.abs(np.concatenate(slopes)) / np.square(offsets).sum()
    return float(per_frame.mean() * RATE_HZ / HOP)


def _voicing(f0: np.ndarray, runs: Sequence[tuple[int, int]]) -> dict[str, float]:
    lengths = np.array([stop - start for start, stop in runs]) * HOP / RATE_HZ
    return {
        "voiced_share": 100 * float((f0 > 0).mean()),
        "voiced_runs": len(runs) / _seconds(len(f0)),
        **_mean_sd("voiced_run", lengths),
    }


def _timing_and_level(level: np.ndarray, f0: np.ndarray) -> dict[str, float]:
    """Return the functionals of the level outside pauses, of pauses and of syllables."""
    silence = max(float(np.percentile(level, 99)) - _PAUSE_DB, float(_decibels(np.array(_QUIETEST))))
    quiet = voiced_runs(np.where(level <= silence, 1.0, 0.0))
    pauses = [(start, stop) for start, stop in quiet if stop - start >= _PAUSE_FRAMES]
    sounds = np.ones(len(level), bool)
    for start, stop in pauses:
        sounds[start:stop] = False
    smooth = _decibels(np.convolve(10 ** (level / 10), _SMOOTHING / _SMOOTHING.sum()))[
        _LAG : _LAG + len(level)
    ]
    peaks, _ = _peak_finder()(smooth, height=silence, prominence=_DIP_DB)
    syllables = int((f0[peaks] > 0).sum())
    seconds, spoken = _seconds(len(level)), _seconds(int(sounds.sum()))
    loud = level[sounds] if sounds.any() else level
    p20, p50, p80 = np.percentile(loud, [20, 50, 80])
    return {
        **_mean_sd("level", loud),
        "level_p20": float(p20),
        "level_p50": float(p50),
        "level_p80": float(p80),
        "syllables": syllables / seconds,
        "articulation": syllables / spoken if spoken else 0.0,
        "pause_share": 100 * float(1 - sounds.mean()),
        "pauses": len(pauses) / seconds,
        "pause_mean": float(np.mean([stop - start for start, stop in pauses])) * HOP / RATE_HZ
        if pauses
        else 0.0,
    }


@cache
def _peak_finder() -> Callable[..., tuple[np.ndarray, Mapping[str, Any]]]:
    from scipy.signal import find_peaks

    finder: Callable[..., tuple[np.ndarray, Mapping[str, Any]]] = find_peaks
    return finder


def _seconds(frames: int) -> float:
    return frames * HOP / RATE_HZ


def _mean_sd(name: str, values: np.ndarray) -> dict[str, float]:
    """Return mean and standard deviation under their names; both 0 without values."""
    mean, sd = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
    return {f"{name}_mean": mean, f"{name}_sd": sd}
