"""From segments to rows: complete documents, and failures that stay with their document."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import Config, EncoderConfig, SegmentConfig
from hilbert_ray.document.records import AudioSegment
from hilbert_ray.embedding import features, reading
from hilbert_ray.embedding.features import _covered, embed_documents
from hilbert_ray.embedding.worker import configured_encoder
from hilbert_ray.encoders import build_encoder
from hilbert_ray.segmentation.audio import audio_segments
from tests import make, models
from tests.embedding.in_process import (
    CONFIG,
    MODALITIES,
    PlainEncoder,
    stored_of,
)


def loud(folder: Path, name: str, seconds: float = 2.0) -> dict[str, Any]:
    """Return a manifest row with audio that `PlainEncoder` may refuse."""
    folder.mkdir(parents=True, exist_ok=True)
    soundfile.write(folder / f"{name}.wav", np.full(round(seconds * 16000), 0.95, np.float32), 16000)
    return {"doc_id": name, "audio": f"{name}.wav"}


@pytest.mark.parametrize(
    ("fail", "stage", "error", "message"),
    [
        ("raise", "encode", "RuntimeError", "RuntimeError in hilbert_ray/embedding/features.py"),
        (
            "nan",
            "check",
            "FeatureError",
            "the features of segment 0 (0.00 to 2.00 s) are not finite or beyond 65504",
        ),
        (
            "large",
            "check",
            "FeatureError",
            "the features of segment 0 (0.00 to 2.00 s) are not finite or beyond 65504",
        ),
    ],
)
def test_a_document_that_the_encoder_fails_on_is_quarantined_and_its_neighbours_are_stored(
    tmp_path: Path, fail: str, stage: str, error: str, message: str
) -> None:
    records = [make.record(tmp_path, 0), loud(tmp_path, "d000x"), make.record(tmp_path, 1)]
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    rows, [failure] = embed_documents(items, ["k0", "k1", "k2"], "audio", PlainEncoder(fail), CONFIG)
    assert [row.doc_id for row in rows] == ["d000", "d001"]
    assert (failure.doc_id, failure.source, failure.stage, failure.error) == ("d000x", "k1", stage, error)
    assert message in failure.message
    expected, none = embed_documents([items[0], items[2]], ["k0", "k2"], "audio", PlainEncoder(), CONFIG)
    assert not none
    for row, other in zip(rows, expected, strict=True):
        np.testing.assert_array_equal(row.features, other.features)


def test_features_of_the_wrong_shape_are_refused(tmp_path: Path) -> None:
    items = stored_of(make.corpus(tmp_path, 1))
    _, [failure] = embed_documents(items, ["k"], "audio", PlainEncoder("shape"), CONFIG)
    assert failure.message == (
        "encoder plain returned features of shape (1, 1) for 1 segments; it must be (1, 2): please report "
        "this with the encoder"
    )


def test_batches_are_bounded_and_do_not_depend_on_how_fast_anything_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_BATCH_S", 40.0)
    items = stored_of(make.corpus(tmp_path, 3, seconds=33.0))
    encoder = PlainEncoder()
    rows, _ = embed_documents(items, ["k"] * 3, "audio", encoder, CONFIG)
    assert encoder.batches == [5, 5, 2]
    assert [len(row.features) for row in rows] == [4, 4, 4]


def whisper(folder: Path) -> Any:  # noqa: ANN401 - a test looks inside
    options = EncoderConfig(precision="float32", context="fill")
    encoder: Any = build_encoder(models.made("whisper", folder), "audio", options, SegmentConfig())
    encoder.inputs = []
    encoder.model.register_forward_hook(
        lambda _, __, output: encoder.inputs.append(len(output.last_hidden_state))
    )
    return encoder


def test_segments_heard_together_are_the_same_bits_whatever_is_embedded_with_their_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = whisper(tmp_path / "model")
    records = [make.record(tmp_path, number, seconds) for number, seconds in enumerate((45.0, 3.0, 65.0))]
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    rows, none = embed_documents(items, ["k"] * 3, "audio", encoder, CONFIG)
    assert not none
    assert [len(row.features) for row in rows] == [5, 1, 7]
    assert sum(encoder.inputs) == 2 + 1 + 3  # of 30 s, for 13 windows
    for batch_s in (5.0, 25.0):  # a batch would end within a fill
        encoder.inputs.clear()
        monkeypatch.setattr(features, "_BATCH_S", batch_s)
        backwards, _ = embed_documents(items[::-1], ["k"] * 3, "audio", encoder, CONFIG)
        assert sum(encoder.inputs) == 2 + 1 + 3
        alone = [embed_documents([item], ["k"], "audio", encoder, CONFIG)[0][0] for item in items]
        for row, *others in zip(rows, backwards[::-1], alone, strict=True):
            for other in others:
                np.testing.assert_array_equal(other.features, row.features)


def test_channels_that_are_heard_apart_are_rows_in_order_of_their_starts(tmp_path: Path) -> None:
    encoder = whisper(tmp_path / "model")
    sides = 0.1 * np.random.default_rng(0).standard_normal((round(35.0 * 16000), 2)).astype(np.float32)
    for name, samples in (("both", sides), ("agent", sides[:, 0]), ("customer", sides[:, 1])):
        soundfile.write(tmp_path / f"{name}.wav", samples, 16000, subtype="FLOAT")
    records: list[dict[str, Any]] = [
        {"doc_id": name, "audio": f"{name}.wav"} for name in ("both", "agent", "customer")
    ]
    records[0]["channels"] = {"0": "agent", "1": "customer"}
    items = stored_of(make.manifest(tmp_path / "m.jsonl", records))
    [both, *sides_alone], none = embed_documents(items, ["k"] * 3, "audio", encoder, CONFIG)
    assert not none
    assert both.start.tolist() == [0, 0, 10, 10, 20, 20, 30, 30]
    assert both.roles == ("agent", "customer") * 4
    assert both.seen == pytest.approx(70.0)
    for column, side in enumerate(sides_alone):
        np.testing.assert_array_equal(both.features[column::2], side.features)


def test_a_document_without_a_selected_speaker_says_so(tmp_path: Path) -> None:
    items = stored_of(make.corpus(tmp_path, 1))
    config = replace(CONFIG, segment=SegmentConfig(roles=("judge",)))
    for modality in MODALITIES:
        _, [failure] = embed_documents(items, ["k"], modality, configured_encoder(config, modality), config)
        assert "judge" in failure.message or "no audio left to embed" in failure.message
        assert "d000" in failure.message


def test_segments_that_lose_the_tail_or_overlap_unseen_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = stored_of(make.corpus(tmp_path, 1, seconds=25.0))
    plain = audio_segments

    def without_tail(*arguments: Any) -> Iterator[AudioSegment]:  # noqa: ANN401
        yield from list(plain(*arguments))[:-1]

    monkeypatch.setattr(reading, "audio_segments", without_tail)
    _, [failure] = embed_documents(items, ["k"], "audio", PlainEncoder(), CONFIG)
    assert failure.error == "TruncatedError"
    assert "segments cover 20.000 of 25.000 seconds of audio; nothing may be cut off" in failure.message


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 20)), max_size=8))
def test_stretches_that_overlap_count_once(spans: list[tuple[int, int]]) -> None:
    expected = len({second for start, length in spans for second in range(start, start + length)})
    assert _covered([(start, start + length) for start, length in spans]) == expected


@settings(max_examples=40, deadline=None)
@given(
    samples=st.integers(1, 200_000),
    cut=st.sampled_from(["window", "turns", "pause"]),
    window=st.floats(0.05, 4.0),
    overlap=st.floats(0.1, 1.0),
    ends=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6),
    roles=st.sampled_from([(), ("participant",)]),
    data=st.data(),
)
def test_every_second_and_every_token_that_is_present_is_seen(
    samples: int,
    cut: Literal["window", "turns", "pause"],
    window: float,
    overlap: float,
    ends: list[float],
    roles: tuple[str, ...],
    data: st.DataObject,
) -> None:
    """Random recordings and transcripts, overlaps and tails included, through the whole of a unit's work."""
    duration = samples / 16000
    turns: list[dict[str, Any]] = []
    begin = 0.0
    for number, share in enumerate(ends):
        end = begin + share * (duration - begin)
        words = " ".join(data.draw(st.lists(st.sampled_from(make.SPEECH), min_size=1, max_size=3)))
        turns.append(
            {"text": words, "start": begin, "end": end, "role": ("participant", "other")[number % 2]}
        )
        begin = end
    config = Config(
        segment=SegmentConfig(
            audio=cut, window_s=window, hop_s=window * overlap, max_s=window, roles=roles, target_tokens=8
        )
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        noise = 0.1 * np.random.default_rng(0).standard_normal(samples)
        soundfile.write(folder / "a.wav", noise.astype(np.float32), 16000, subtype="FLOAT")
        items = stored_of(
            make.manifest(folder / "m.jsonl", [{"doc_id": "a", "audio": "a.wav", "text": turns}])
        )
        rows, failures = embed_documents(items, ["k"], "audio", PlainEncoder(), config)
        kept = [turn for turn in turns if not roles or turn["role"] in roles]
        spoken = sum(turn["end"] - turn["start"] for turn in kept)
        if not rows:  # turns between two samples
            assert [failure.error for failure in failures] == ["EmptyError"]
            assert spoken < len(kept) / 16000
            return
        [row], none = rows, failures
        assert none == []
        wanted = spoken if cut == "turns" or roles else duration
        assert row.seen == row.present == pytest.approx(wanted, abs=(1 + len(turns)) / 16000)
        encoder = configured_encoder(config, "text")
        [row], none = embed_documents(items, ["k"], "text", encoder, config)
        assert none == []
        assert row.seen == row.present == sum(encoder.count_tokens([turn["text"] for turn in kept]))
