"""The built-in encoders against independent computations, and the fingerprints that name their features."""

import numpy as np
import pytest

from hilbert_ray.config import BUILTIN_ENCODERS, EncoderConfig, Modality, SegmentConfig
from hilbert_ray.document.records import AudioSegment, TextSegment
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.registry import BUILTIN, build_encoder

FRAME, HOP, MELS, COEFFICIENTS = 400, 160, 64, 20


def built_in(spec: str, modality: Modality) -> Encoder:
    return build_encoder(spec, modality, EncoderConfig(), SegmentConfig())


def test_the_settings_know_the_built_in_encoders() -> None:
    assert {modality: tuple(names) for modality, names in BUILTIN.items()} == BUILTIN_ENCODERS


def mel_filters() -> np.ndarray:
    """Return triangular filters on the HTK mel scale, 0 to 8 kHz, float64 [bins, MELS]."""
    bins = np.linspace(0, 8000, FRAME // 2 + 1)
    mel_edges = np.linspace(0, 2595 * np.log10(1 + 8000 / 700), MELS + 2)
    edges = 700 * (10 ** (mel_edges / 2595) - 1)
    rising = (bins[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins[:, None]) / (edges[2:] - edges[1:-1])
    return np.asarray(np.maximum(0, np.minimum(rising, falling)))


def deltas(values: np.ndarray) -> np.ndarray:
    """Return the slope of a regression over five frames, ends repeated: [coefficients, frames]."""
    padded = np.pad(values, ((0, 0), (2, 2)), mode="edge")
    count = values.shape[1]
    slopes = [n * padded[:, 2 + n : 2 + n + count] for n in (-2, -1, 1, 2)]
    return np.asarray(np.sum(slopes, axis=0) / 10)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Return mean and deviation of the coefficients and their deltas, in float64 from the definitions."""
    starts = range(0, len(samples) - FRAME + 1, HOP)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(FRAME) / FRAME)
    frames = np.stack([samples[start : start + FRAME] * window for start in starts])
    power = np.abs(np.fft.rfft(frames)) ** 2 @ mel_filters()
    decibels = 10 * np.log10(np.maximum(power, 1e-10)).T  # [mels, frames]
    decibels = np.maximum(decibels, decibels.max() - 80)
    row, column = np.arange(COEFFICIENTS)[:, None], np.arange(MELS)
    cosines = np.sqrt(2 / MELS) * np.cos(np.pi / MELS * (column + 0.5) * row)
    cosines[0] /= np.sqrt(2)
    cepstra = cosines @ decibels
    values = np.concatenate([cepstra, deltas(cepstra), deltas(deltas(cepstra))])
    return np.concatenate([values.mean(1), values.std(1)])


@pytest.mark.parametrize("count", [400, 401, 1000, 16000, 40123])
def test_mfcc_computes_what_its_definition_says(count: int) -> None:
    time = np.arange(count) / 16000
    noise = np.random.default_rng(count).standard_normal(count)
    samples = (0.3 * np.sin(2 * np.pi * (200 + 300 * time) * time) + 0.02 * noise).astype(np.float32)
    [feature] = built_in("mfcc", "audio").encode([AudioSegment(start=0, end=count / 16000, samples=samples)])
    np.testing.assert_allclose(feature, mfcc(samples.astype(np.float64)), atol=2e-2, rtol=1e-3)


def test_both_halves_of_a_hashed_text_have_length_one() -> None:
    texts = ["the garden was cold", "Gardens!", "x", "one two one two"]
    features = built_in("hashing", "text").encode([TextSegment(start=0, end=1, text=text) for text in texts])
    halves = features.reshape(len(texts), 2, 256)
    np.testing.assert_allclose(np.linalg.norm(halves, axis=2)[[0, 1, 3]], 1, rtol=1e-6)
    # Counts, not sets of words; and the order of words counts by their pairs.
    other = built_in("hashing", "text").encode([TextSegment(start=0, end=1, text="one two")])
    assert np.abs(features[3, :256] - other[0, :256]).max() > 0.1


@pytest.mark.parametrize(
    ("spec", "modality", "fingerprint"),
    [
        ("mfcc", "audio", "c5457d2400c1bea4"),
        ("prosody", "audio", "9e526de72076466b"),
        ("mfcc+prosody", "audio", "cbd723519d7844af"),
        ("hashing", "text", "874a1a370be9cfeb"),
    ],
)
def test_fingerprints_of_built_in_encoders_stay_what_they_were(
    spec: str, modality: Modality, fingerprint: str
) -> None:
    """Stores name folders by them: another one for the same features would embed every store again."""
    assert built_in(spec, modality).fingerprint == fingerprint
