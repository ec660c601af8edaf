"""Prosody against voices made of known parts, its own definitions, and Praat on voices and on speech."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import parselmouth
import pytest
import soundfile
import soxr
from parselmouth.praat import call

from hilbert_ray.config import EncoderConfig, SegmentConfig
from hilbert_ray.document.records import AudioSegment
from hilbert_ray.encoders.pitch import FFT, Frames
from hilbert_ray.encoders.prosody import NAMES, functionals, spectral_shape
from hilbert_ray.encoders.registry import build_encoder
from tests.encoders.voices import RATE, TIME, harmonics, pulses, syllables

CORPUS = Path(__file__).parents[2] / "examples" / "corpus" / "audio"
DRAW = np.random.default_rng(0)
ABSURD: Mapping[str, np.ndarray] = {
    "nothing": np.zeros(0),
    "one sample": np.ones(1),
    "less than a frame": harmonics(150, 5)[:300],
    "a frame": harmonics(150, 5)[:640],
    "silence": np.zeros(RATE),
    "a constant": np.full(RATE, 0.7),
    "noise": DRAW.standard_normal(RATE),
    "an impulse": np.eye(1, RATE, 8000)[0],
    "clipped": np.sign(harmonics(150, 1)[:RATE]),
    "all but silent": 1e-30 * harmonics(150, 5),
    "beyond full scale": 1e30 * harmonics(150, 5),
    "rounded to one bit": np.round(harmonics(150, 5) / 5) / 32768,
}


GOLDEN = [
    28.74737, 1.80753, 26.84284, 28.54503, 30.55018, -0.51523, 4.12665, 87.87234, 0.42553, 2.065, 0.005,
    1.14702, 5.99876, 15.97029, 4.64881, -17.03056, 3.43193, -20.07763, -18.98362, -13.7001, 11.76801,
    0.5746, 26.59032, 0.89739, 39.52806, 11.29908, -18.79881, 2.42596, 0.42553, 0.47962, 11.2766,
    0.21277, 0.53,
]  # fmt: skip
"""Features of a voice, in the order of `NAMES`."""


@pytest.fixture(scope="module")
def speech() -> list[np.ndarray]:
    """Return 10 s of six interviews of the sample corpus, float64 at 16 kHz."""
    clips = []
    for path in sorted(CORPUS.glob("*.opus"))[:6]:
        samples, rate = soundfile.read(path)
        mono = samples if samples.ndim == 1 else samples.mean(1)
        clips.append(soxr.resample(mono[: 10 * rate], rate, RATE))
    return clips


def test_a_steady_voice_is_what_it_is_made_of() -> None:
    values = functionals(harmonics(220.0, 30) / 10)
    semitone = 12 * np.log2(220 / 27.5)
    for name in ("f0_mean", "f0_p20", "f0_p50", "f0_p80"):
        assert values[name] == pytest.approx(semitone, abs=0.01)
    power = sum(0.5 / k**2 for k in range(1, 31)) / 100
    for name in ("level_mean", "level_p20", "level_p50", "level_p80"):
        assert values[name] == pytest.approx(10 * np.log10(power), abs=0.1)
    assert values["voiced_share"] == 100
    assert values["voiced_run_mean"] == pytest.approx(2, abs=0.05)
    assert values["hnr_mean"] > 35
    for name in ("f0_sd", "f0_slope", "f0_change", "voiced_run_sd", "level_sd", "pause_share", "pauses"):
        assert values[name] == pytest.approx(0, abs=0.05)
    assert values["jitter"] < 0.05
    assert values["shimmer"] < 0.5


def test_a_glide_has_its_slope() -> None:
    hertz = 110 * 2 ** (4 * TIME / 12)  # 4 semitones per second
    values = functionals(np.sin(2 * np.pi * np.cumsum(hertz) / RATE))
    assert values["f0_slope"] == pytest.approx(4, abs=0.05)
    assert values["f0_change"] == pytest.approx(4, abs=0.1)
    assert values["f0_p80"] - values["f0_p20"] == pytest.approx(0.6 * 8 * (1.97 / 2), abs=0.1)


def test_the_spectrum_of_two_tones() -> None:
    """250 Hz, and 3 kHz at a tenth of its amplitude: by both ratios 20 dB apart."""
    values = functionals(np.cos(2 * np.pi * 250 * TIME) + 0.1 * np.cos(2 * np.pi * 3000 * TIME))
    for name in ("alpha_ratio", "hammarberg"):
        assert values[f"{name}_mean"] == pytest.approx(20, abs=0.1)
        assert values[f"{name}_sd"] == pytest.approx(0, abs=0.1)


def test_spectral_slopes_are_those_of_the_spectrum() -> None:
    """20 dB per kHz down to 500 Hz, and from there on a third of it."""
    khz = np.arange(FFT // 2 + 1) * RATE / FFT / 1000
    spectrum = 10 ** (-np.where(khz < 0.5, 20 * khz, 10 + 6 * (khz - 0.5)) / 10)[None]
    nothing = np.zeros((1, 1))
    shape = spectral_shape(
        Frames(
            power=spectrum.sum(1), spectrum=spectrum, frequency=nothing, correlation=nothing, peak=nothing[0]
        )
    )
    assert shape["slope_0_500"] == pytest.approx(-20)
    assert shape["slope_500_1500"] == pytest.approx(-6)


@pytest.mark.parametrize(("count", "length_s", "gap_s"), [(6, 0.25, 0.5), (4, 0.4, 0.8), (9, 0.2, 0.15)])
def test_syllables_and_pauses_are_counted(count: int, length_s: float, gap_s: float) -> None:
    samples = syllables(count, length_s, gap_s)
    values = functionals(samples)
    seconds = len(samples) / RATE
    assert values["syllables"] * seconds == pytest.approx(count, rel=0.03)
    assert values["voiced_runs"] * seconds == pytest.approx(count, rel=0.03)
    assert values["voiced_run_mean"] == pytest.approx(length_s, abs=0.04)
    if gap_s < 0.3:  # shorter than a pause
        assert values["pauses"] == values["pause_share"] == values["pause_mean"] == 0
        assert values["articulation"] == values["syllables"]
        return
    assert values["pauses"] * seconds == pytest.approx(count + 1, rel=0.03)
    assert values["pause_mean"] == pytest.approx(gap_s, abs=0.04)
    assert values["pause_share"] == pytest.approx(100 * (count + 1) * gap_s / seconds, abs=4)
    assert values["articulation"] == pytest.approx(1 / length_s, rel=0.15)


def test_gain_changes_the_level_alone() -> None:
    samples = syllables(5, 0.3, 0.4) + 1e-3 * np.random.default_rng(0).standard_normal(
        len(syllables(5, 0.3, 0.4))
    )
    loud, soft = functionals(samples), functionals(samples / 8)
    for name in NAMES:
        expected = loud[name] - 20 * np.log10(8) * (
            name in {"level_mean", "level_p20", "level_p50", "level_p80"}
        )
        assert soft[name] == pytest.approx(expected, abs=1e-3), name


@pytest.mark.parametrize("samples", ABSURD.values(), ids=ABSURD)
def test_whatever_is_heard_can_be_stored(samples: np.ndarray) -> None:
    with np.errstate(all="raise"):
        values = functionals(samples)
    assert set(values) == set(NAMES)
    assert np.isfinite(np.array([*values.values()], np.float16)).all()


def test_what_is_not_voiced_has_no_pitch_and_no_quality() -> None:
    values = functionals(np.random.default_rng(0).standard_normal(RATE))
    measured = {name for name, value in values.items() if value}
    assert measured == {"level_mean", "level_sd", "level_p20", "level_p50", "level_p80"}
    assert functionals(np.zeros(RATE))["pause_share"] == 100


def test_a_segment_has_the_same_features_in_any_batch() -> None:
    encoder = build_encoder("prosody", "audio", EncoderConfig(), SegmentConfig())
    segments = [
        AudioSegment(start=0, end=len(samples) / RATE, samples=samples.astype(np.float32))
        for samples in (harmonics(130, 20), syllables(3, 0.2, 0.3), np.zeros(5))
    ]
    together = encoder.encode(segments)
    assert together.dtype == np.float32
    assert together.shape == (3, encoder.dim) == (3, len(NAMES))
    for row, segment in enumerate(segments):
        np.testing.assert_array_equal(encoder.encode([segment])[0], together[row])
        values = functionals(segment.samples)
        np.testing.assert_array_equal(together[row], np.array([values[name] for name in NAMES], np.float32))
    assert encoder.describe()["names"] == [*NAMES]


def test_the_features_of_a_voice_stay_what_they_were() -> None:
    """Another value for the same segment needs another `VERSION`, so that stores embed it again."""
    draw = np.random.default_rng(0)
    starts = 500 + np.cumsum(np.linspace(90, 130, 300) * (1 + 0.01 * draw.standard_normal(300)))
    voice = pulses(starts, 1 + 0.05 * draw.standard_normal(300))
    samples = np.concatenate([voice, np.zeros(8000), voice / 2])
    samples += 0.003 * draw.standard_normal(len(samples))
    values = functionals(samples)
    np.testing.assert_allclose([values[name] for name in NAMES], GOLDEN, rtol=1e-4, atol=1e-4)


def praat(samples: np.ndarray) -> dict[str, float]:
    """Return what Praat measures with the settings that are ours too."""
    sound = parselmouth.Sound(samples, RATE)
    pitch = sound.to_pitch_ac(
        time_step=0.01, pitch_floor=75.0, max_number_of_candidates=15, pitch_ceiling=600.0
    )
    f0, strength = pitch.selected_array["frequency"], pitch.selected_array["strength"]
    semitones = 12 * np.log2(f0[f0 > 0] / 27.5)
    periodic = strength[f0 > 0]
    points = call([sound, pitch], "To PointProcess (cc)")
    periods = (0, 0, 0.0001, 0.02, 1.3)
    return {
        "f0_p50": float(np.median(semitones)),
        "f0_sd": float(semitones.std()),
        "voiced_share": 100 * float((f0 > 0).mean()),
        "hnr_mean": float((10 * np.log10(periodic / (1 - periodic))).mean()),
        "jitter": 100 * call(points, "Get jitter (local)", *periods),
        "shimmer": 100 * call([sound, points], "Get shimmer (local)", *periods, 1.6),
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_rough_voice_is_what_praat_says(seed: int) -> None:
    draw = np.random.default_rng(seed)
    starts = 500 + np.cumsum(draw.uniform(80, 160) * (1 + 0.01 * draw.standard_normal(400)))
    samples = pulses(starts, 1 + 0.05 * draw.standard_normal(400))
    samples += 0.003 * draw.standard_normal(len(samples))
    ours, theirs = functionals(samples), praat(samples)
    for name, tolerance in {"f0_p50": 0.03, "hnr_mean": 0.5, "jitter": 0.01, "shimmer": 0.5}.items():
        assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name


def test_speech_is_what_praat_says(speech: list[np.ndarray]) -> None:
    """Frames lie half a hop apart from Praat's at worst: twice the largest differences of 12 recordings."""
    tolerances = {
        "f0_p50": 0.03, "f0_sd": 0.03, "voiced_share": 1.0, "hnr_mean": 0.2, "jitter": 0.2, "shimmer": 0.7,
    }  # fmt: skip
    for samples in speech:
        ours, theirs = functionals(samples), praat(samples)
        for name, tolerance in tolerances.items():
            assert ours[name] == pytest.approx(theirs[name], abs=tolerance), name
