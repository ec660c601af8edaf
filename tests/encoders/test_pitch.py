"""Pitch against signals whose pitch and noise are known, and its steps against their definitions."""

from itertools import pairwise, product

import numpy as np
import pytest

from hilbert_ray.encoders import pitch
from hilbert_ray.encoders.pitch import FRAME, HOP, PitchTrack, analyse, track_pitch
from tests.encoders.voices import TIME, harmonics


def tracked(samples: np.ndarray) -> PitchTrack:
    frames = list(analyse(samples))
    return track_pitch(
        np.vstack([block.frequency for block in frames]),
        np.vstack([block.correlation for block in frames]),
        np.concatenate([block.peak for block in frames]),
        float(np.abs(samples).max()),
    )


@pytest.mark.parametrize("f0", [80.3, 123.4, 231.7, 377.7, 551.3])
@pytest.mark.parametrize("count", [1, 15])
def test_the_pitch_of_a_steady_tone_is_exact(f0: float, count: int) -> None:
    track = tracked(harmonics(f0, count))
    np.testing.assert_allclose(track.f0, f0, rtol=5e-4)
    # A frame holds barely three periods of 80 Hz, whose ends the window's correlation does not wholly undo.
    assert (track.correlation > (0.9985 if f0 > 100 else 0.995)).all()


@pytest.mark.parametrize("snr_db", [0, 5, 10, 20, 30])
def test_the_periodic_fraction_is_that_of_the_signal_in_noise(snr_db: float) -> None:
    voice = harmonics(123.4, 39, tilt=0)
    noise = np.random.default_rng(0).standard_normal(len(voice))
    noise *= np.sqrt(np.mean(voice**2) / np.mean(noise**2)) * 10 ** (-snr_db / 20)
    track = tracked(voice + noise)
    assert (track.f0 > 0).all()
    hnr = 10 * np.log10(track.correlation / (1 - track.correlation))
    assert hnr.mean() == pytest.approx(snr_db, abs=0.2)


def test_the_autocorrelation_is_that_of_the_definition() -> None:
    """Equations 5 to 9 of Boersma 1993, sums over samples in the place of transforms."""
    samples = harmonics(160.0, 8)[:FRAME] + 0.1 * np.random.default_rng(0).standard_normal(FRAME)
    [frames] = analyse(samples)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(1, FRAME + 1) / (FRAME + 1))
    windowed = (samples - samples.mean()) * window

    def normalised(values: np.ndarray, lag: int) -> float:
        return float(values[: FRAME - lag] @ values[lag:] / (values @ values))

    nearest = np.abs(frames.frequency[0] - 160).argmin()
    assert frames.frequency[0, nearest] == pytest.approx(160.0, rel=0.01)
    assert frames.correlation[0, nearest] == pytest.approx(
        normalised(windowed, 100) / normalised(window, 100), abs=0.01
    )
    assert frames.power[0] == pytest.approx(windowed @ windowed / (window @ window))
    assert frames.spectrum.sum(1) == pytest.approx(frames.power)


def test_the_path_is_the_best_of_all() -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        shape = (5, 3)
        frequency = draw.uniform(75, 600, shape) * (draw.random(shape) < 0.8)
        frequency[:, 0] = 0
        correlation = np.where(frequency > 0, draw.uniform(0.3, 1, shape), 0)
        peak = draw.uniform(0, 1, 5)
        track = track_pitch(frequency, correlation, peak, 1.0)
        paths = [path for path in product(range(3), repeat=5) if is_open(path, frequency)]
        best = max(paths, key=lambda path: value_of(path, frequency, correlation, peak))
        rows = np.arange(5)
        np.testing.assert_array_equal(track.f0, frequency[rows, best])
        np.testing.assert_array_equal(track.correlation, correlation[rows, best])


def is_open(path: tuple[int, ...], frequency: np.ndarray) -> bool:
    """Return whether all candidates of a path exist; the first of each frame, unvoiced, always does."""
    return all(column == 0 or frequency[row, column] > 0 for row, column in enumerate(path))


def value_of(
    path: tuple[int, ...], frequency: np.ndarray, correlation: np.ndarray, peak: np.ndarray
) -> float:
    """Return the strength of a path less its costs, from the definitions."""
    pitches = [frequency[row, column] for row, column in enumerate(path)]
    value = 0.0
    for row, f0 in enumerate(pitches):
        silence = max(0.0, 2 - peak[row] / (0.03 / 1.45))
        value += correlation[row, path[row]] - 0.01 * np.log2(600 / f0) if f0 else 0.45 + silence
    for before, after in pairwise(pitches):
        if before and after:
            value -= 0.35 * abs(np.log2(before / after))
        elif before or after:
            value -= 0.14
    return float(value)


def test_frames_do_not_depend_on_the_block_that_they_are_computed_in() -> None:
    samples = harmonics(200.0, 10)[: FRAME + 30 * HOP] * np.linspace(0, 1, FRAME + 30 * HOP)
    [together] = analyse(samples)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pitch, "_FRAMES_AT_ONCE", 7)
        blocks = list(analyse(samples))
        assert len(blocks) == 5
        for name in ("power", "spectrum", "frequency", "correlation", "peak"):
            parts = np.concatenate([getattr(block, name) for block in blocks])
            np.testing.assert_array_equal(parts, getattr(together, name))


@pytest.mark.parametrize("samples", [np.zeros(16000), np.random.default_rng(0).standard_normal(16000)])
def test_silence_and_noise_are_unvoiced(samples: np.ndarray) -> None:
    assert not tracked(samples).f0.any()


def test_a_glide_is_followed() -> None:
    hertz = 100 * 2 ** (TIME / 2)  # an octave in two seconds
    track = tracked(np.sin(2 * np.pi * np.cumsum(hertz) / 16000))
    middles = (np.arange(len(track.f0)) * HOP + FRAME / 2) / 16000
    np.testing.assert_allclose(track.f0, 100 * 2 ** (middles / 2), rtol=2e-3)
