"""Encoders joined with `+`: the features of the parts side by side, and names that say what is joined."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from hilbert_ray.config import Config, ConfigError, EncoderConfig, SegmentConfig, encoder_parts
from hilbert_ray.document.records import AudioSegment
from hilbert_ray.embedding.resolve import resolve_encoders
from hilbert_ray.encoders.joined import JoinedEncoder
from hilbert_ray.encoders.protocol import Encoder
from hilbert_ray.encoders.registry import build_encoder
from hilbert_ray.run.tables import without_paths
from tests.embedding.in_process import PlainEncoder
from tests.encoders.voices import RATE, harmonics, syllables
from tests.models import LAYER


def speech_model(folder: Path, rate_hz: int = RATE, layers: int = 2) -> str:
    """Save a model with random weights and its feature extractor; return its spec."""
    torch.manual_seed(layers)
    config = transformers.Wav2Vec2Config(**{**LAYER, "num_hidden_layers": layers})
    transformers.Wav2Vec2Model(config).save_pretrained(folder)
    transformers.Wav2Vec2FeatureExtractor(sampling_rate=rate_hz).save_pretrained(folder)
    return f"hf:{folder}"


def encoder(spec: str, layer: str = "last") -> Encoder:
    return build_encoder(spec, "audio", EncoderConfig(layer=layer, precision="float32"), SegmentConfig())


@pytest.fixture(scope="module")
def segments() -> Sequence[AudioSegment]:
    return [
        AudioSegment(start=0, end=len(samples) / RATE, samples=samples.astype(np.float32))
        for samples in (harmonics(150, 20)[:8000], syllables(2, 0.2, 0.3), np.zeros(100))
    ]


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("mfcc", ["mfcc"]),
        ("mfcc+prosody", ["mfcc", "prosody"]),
        ("hf:org/model@main+prosody", ["hf:org/model@main", "prosody"]),
        ("prosody+hf:a+hf:b@1+mfcc", ["prosody", "hf:a", "hf:b@1", "mfcc"]),
        # A + of a path is no join unless an encoder's whole name follows it.
        ("hf:/models/large+small", ["hf:/models/large+small"]),
        ("hf:/models/c++/x+mfccs+prosody", ["hf:/models/c++/x+mfccs", "prosody"]),
    ],
)
def test_a_plus_joins_where_an_encoder_follows(spec: str, parts: Sequence[str]) -> None:
    assert encoder_parts(spec) == parts
    assert Config(audio=spec).audio == spec


@pytest.mark.parametrize(
    ("audio", "text", "message"),
    [
        ("mfcc+prosodi", "hashing", r"audio encoder is 'mfcc\+prosodi'; the choices are `mfcc`, `prosody`, "),
        ("mfcc+hashing", "hashing", r"the choices are .* several of them joined with `\+`, `none`"),
        ("none+mfcc", "hashing", "audio encoder is 'none"),
        ("hf:+mfcc", "hashing", "audio encoder is 'hf:"),
        ("mfcc+mfcc", "hashing", "joins an encoder with itself; name each one once"),
        ("mfcc", "hashing+hf:org/model", r"text encoder is .* only audio encoders can be joined with `\+`"),
    ],
)
def test_what_cannot_be_joined_is_refused(audio: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config(audio=audio, text=text)


def test_joined_features_are_those_of_the_parts(segments: Sequence[AudioSegment]) -> None:
    joined, parts = encoder("mfcc+prosody"), [encoder("mfcc"), encoder("prosody")]
    expected = np.hstack([part.encode(segments) for part in parts])
    np.testing.assert_array_equal(joined.encode(segments), expected)
    assert joined.encode([]).shape == (0, joined.dim) == (0, 153)
    assert [part["fingerprint"] for part in joined.describe()["parts"]] == [
        part.fingerprint for part in parts
    ]


def test_each_order_and_each_part_has_a_fingerprint_of_its_own() -> None:
    found = {encoder(spec).fingerprint for spec in ("mfcc", "prosody", "mfcc+prosody", "prosody+mfcc")}
    assert len(found) == 4
    assert encoder("mfcc+prosody").fingerprint == encoder("mfcc+prosody").fingerprint
    other = build_encoder("mfcc+prosody", "audio", EncoderConfig(), SegmentConfig(window_s=5.0, hop_s=5.0))
    assert other.fingerprint != encoder("mfcc+prosody").fingerprint


def test_a_model_joined_with_a_built_in_encoder(tmp_path: Path, segments: Sequence[AudioSegment]) -> None:
    spec = speech_model(tmp_path / "model")
    joined, model, prosody = encoder(f"{spec}+prosody"), encoder(spec), encoder("prosody")
    expected = np.hstack([model.encode(segments), prosody.encode(segments)])
    np.testing.assert_array_equal(joined.encode(segments), expected)
    joined.rehearse()


def test_each_layer_is_joined_with_the_whole_of_the_others(
    tmp_path: Path, segments: Sequence[AudioSegment]
) -> None:
    spec = speech_model(tmp_path / "model")
    joined, model, prosody = encoder(f"prosody+{spec}", "all"), encoder(spec, "all"), encoder("prosody")
    layers = model.describe()["layers"]
    assert joined.describe()["layers"] == layers > 1
    by_layer = joined.encode(segments).reshape(len(segments), layers, -1)
    of_model = model.encode(segments).reshape(len(segments), layers, -1)
    for layer in range(layers):
        expected = np.hstack([prosody.encode(segments), of_model[:, layer]])
        np.testing.assert_array_equal(by_layer[:, layer], expected)
    assert joined.dim == layers * by_layer.shape[2]


def test_parts_of_other_rates_or_layers_are_refused(tmp_path: Path) -> None:
    slow = speech_model(tmp_path / "slow", rate_hz=8000)
    with pytest.raises(ConfigError, match=r"different sampling rates in Hz \(mfcc 16000, hf:.*slow 8000\)"):
        encoder(f"mfcc+{slow}")
    two, three = (speech_model(tmp_path / str(count), layers=count) for count in (2, 3))
    with pytest.raises(ConfigError, match=r"different numbers of layers \(hf:.*2 3, hf:.*3 4\)"):
        encoder(f"{two}+{three}", "all")
    assert encoder(f"{two}+{three}").dim == 2 * encoder(two).dim


def test_parts_that_hear_segments_in_inputs_of_different_lengths_are_refused() -> None:
    long, short, any_length = PlainEncoder(), PlainEncoder(), PlainEncoder()
    long.fill, short.fill, long.name, short.name = 480_000, 160_000, "long", "short"

    def joined(*parts: PlainEncoder) -> JoinedEncoder:
        return JoinedEncoder("+".join(one.name for one in parts), parts, EncoderConfig(), SegmentConfig())

    assert joined(any_length, long).fill == 480_000
    assert joined(any_length, any_length).fill == 0
    with pytest.raises(ConfigError, match=r"lengths \(long 30 s, short 10 s\).*context to segment"):
        joined(long, short)


def test_every_part_is_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = speech_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    config = resolve_encoders(Config(audio="mfcc+hf:model", text="none"))
    assert config.audio == f"mfcc+{spec}"
    assert config.audio_encoder.precision != "auto"


def test_no_part_shows_its_path() -> None:
    assert without_paths("mfcc+hf:/home/somebody/wavlm+hf:org/name") == "mfcc+hf:wavlm+hf:org/name"
