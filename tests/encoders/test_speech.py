"""Each row of the table of speech types against transformers, and folders that are refused."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from hilbert_ray.config import ConfigError, EncoderConfig, SegmentConfig
from hilbert_ray.document.records import AudioSegment, Segment
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.encoders.speech_types import SPEECH_TYPES
from hilbert_ray.encoders.transformer import SegmentTooLongError
from tests.speech_models import CASES

FLOAT32 = EncoderConfig(precision="float32")
SECONDS = SegmentConfig(window_s=2.0, hop_s=2.0)
LENGTHS_S = (0.5, 0.25, 0.75, 0.25, 0.3472, 0.253, 0.255, 0.6)
Models = Callable[[str], str]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Give the spec of a small model by its name; each is made once."""
    folder = tmp_path_factory.mktemp("speech")
    transformers.utils.logging.disable_progress_bar()
    return cache(lambda name: CASES[name].made(folder / name))


def load(spec: str, segment: SegmentConfig = SECONDS, **changes: Any) -> Any:  # noqa: ANN401
    encoder: Any = build_encoder(spec, "audio", replace(FLOAT32, **changes), segment)
    encoder.budget = max(encoder.budget, 4 * (encoder.length or 0))  # several, as on a GPU
    return encoder


def audio(rate_hz: int, *lengths_s: float) -> list[Segment]:
    """Return voice-like segments: a tone that rises, in noise."""
    rng, segments = np.random.default_rng(0), []
    for length_s in lengths_s:
        time = np.arange(round(length_s * rate_hz)) / rate_hz
        tone = np.sin(2 * np.pi * (150 + rng.uniform(0, 300) * time) * time)
        samples = (0.2 * tone + 0.02 * rng.standard_normal(len(time))).astype(np.float32)
        segments.append(AudioSegment(start=0.0, end=length_s, samples=samples))
    return segments


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_every_row_of_the_table_has_a_model_here() -> None:
    assert {name.split()[0] for name in CASES} == set(SPEECH_TYPES)


@pytest.mark.parametrize("name", CASES)
def test_a_segment_has_the_feature_that_transformers_computes_of_it_in_any_batch(
    name: str, small: Models
) -> None:
    case, spec = CASES[name], small(name)
    for layer in (None, 1) if case.has_layers else (None,):
        encoder = load(spec, layer="last" if layer is None else str(layer))
        segments = audio(encoder.rate_hz, *LENGTHS_S)
        plain = [case.plain(spec.removeprefix("hf:"), s.samples, layer) for s in segments]  # type: ignore[union-attr]
        expected = torch.stack([states.mean(0) for states in plain]).numpy()
        assert np.ptp(expected, axis=0).max() > 1e-2  # were they all alike, no batch could change them
        features = encoder.encode(segments)
        np.testing.assert_allclose(features, expected, atol=1e-4, rtol=0)
        assert (encoder.padding.fraction > 0) == (case.is_padded or (layer == 1 and encoder.is_masked))
        for row, segment in enumerate(segments):
            np.testing.assert_allclose(encoder.encode([segment])[0], expected[row], atol=1e-4, rtol=0)
        order = np.random.default_rng(0).permutation(len(segments))[:5]
        shuffled = encoder.encode([segments[row] for row in order])
        np.testing.assert_allclose(shuffled, expected[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", CASES)
def test_narrow_short_and_silent_segments_keep_their_features_in_any_batch(name: str, small: Models) -> None:
    encoder = load(small(name), pooling="mean_std")
    segments = audio(encoder.rate_hz, 0.5, 0.0001, 0.02, 0.51)
    silence = AudioSegment(start=0.0, end=1.0, samples=np.zeros(encoder.rate_hz, np.float32))
    segments += [silence, replace(silence, samples=silence.samples[:300])]
    features = encoder.encode(segments)
    assert np.isfinite(features).all()
    for row, segment in enumerate(segments):
        np.testing.assert_allclose(encoder.encode([segment])[0], features[row], atol=1e-4, rtol=0)
    narrow = load(small(name), precision="bf16")
    alone = np.concatenate([narrow.encode([segment]) for segment in segments[::3]])
    assert cosines(narrow.encode(segments)[::3], alone).min() >= 0.9999
    assert cosines(alone, features[::3, : alone.shape[1]]).min() >= 0.99
    encoder.rehearse()
