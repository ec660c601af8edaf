"""Channels as speakers: each is cut by itself, as it would be alone, and roles choose among them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document.records import AudioSegment, Document, DocumentError
from hilbert_ray.segmentation.audio import audio_segments, expected_seconds
from tests.segmentation.cutting import RATE_HZ, SIZES, cut, document, interview, utterance

SPEAKERS = ("agent", "customer")
CALL = np.random.default_rng(3).standard_normal((4000, 2)).astype(np.float32)


def cut_call(
    config: SegmentConfig, of: Document | None = None, sizes: Sequence[int] = (), samples: np.ndarray = CALL
) -> list[AudioSegment]:
    blocks = np.split(samples, np.minimum(np.cumsum(sizes, dtype=int), len(samples)))
    return list(audio_segments(of or document(), iter(blocks), RATE_HZ, config, SPEAKERS))


def by_role(segments: Sequence[AudioSegment]) -> dict[str | None, list[tuple[float, float, bytes]]]:
    found: dict[str | None, list[tuple[float, float, bytes]]] = {}
    for s in segments:
        found.setdefault(s.role, []).append((s.start, s.end, s.samples.tobytes()))
    return found


def plain(segments: Sequence[AudioSegment]) -> list[tuple[float, float, bytes]]:
    return [(s.start, s.end, s.samples.tobytes()) for s in segments]


@settings(deadline=None)
@given(st.floats(0.1, 2.0), st.floats(0.05, 1.0), SIZES)
def test_each_channel_is_cut_as_it_would_be_alone(window: float, hop: float, sizes: list[int]) -> None:
    config = SegmentConfig(window_s=window, hop_s=min(hop, window))
    segments = cut_call(config, sizes=sizes)
    assert by_role(segments) == {
        role: plain(cut(CALL[:, column], config)) for column, role in enumerate(SPEAKERS)
    }
    starts = [segment.start for segment in segments]
    assert starts == sorted(starts)
    assert expected_seconds(document(), config, 4.0, SPEAKERS) == 8.0


def test_roles_keep_the_channel_of_a_speaker_without_a_transcript() -> None:
    config = SegmentConfig(window_s=1.0, hop_s=1.0, roles=("customer",))
    segments = cut_call(config)
    assert by_role(segments) == {"customer": plain(cut(CALL[:, 1], replace(config, roles=())))}
    assert expected_seconds(document(), config, 4.0, SPEAKERS) == 4.0


TALK = document(utterance(0.0, 1.2, "agent"), utterance(1.0, 2.5, "customer"), utterance(2.2, 3.0, "agent"))


@pytest.mark.parametrize("audio", ["window", "turns"])
def test_with_times_each_speaker_is_heard_where_they_speak_and_overlaps_are_kept_apart(
    audio: Literal["window", "turns"],
) -> None:
    roles = SPEAKERS if audio == "window" else ()
    config = SegmentConfig(audio=audio, window_s=5.0, hop_s=5.0, roles=roles)
    segments = cut_call(config, TALK)
    found = [(s.role, s.start, s.end) for s in segments]
    assert found == [("agent", 0.0, 1.2), ("customer", 1.0, 2.5), ("agent", 2.2, 3.0)]
    for segment in segments:
        column = SPEAKERS.index(segment.role or "")
        expected = CALL[round(segment.start * RATE_HZ) : round(segment.end * RATE_HZ), column]
        np.testing.assert_array_equal(segment.samples, expected)
    assert expected_seconds(TALK, config, 4.0, SPEAKERS) == pytest.approx(1.2 + 1.5 + 0.8)


@pytest.mark.parametrize(
    ("of", "config", "message"),
    [
        (
            document(utterance(0.0, 1.0, "nurse")),
            SegmentConfig(audio="turns"),
            r"named \['agent', 'customer'\], but the transcript has turns of \['nurse'\]",
        ),
        (document(utterance(0.0, 1.0)), SegmentConfig(audio="turns"), r"has turns of \['None'\]"),
        (document(), SegmentConfig(audio="turns"), "needs utterances with times"),
        (document(), SegmentConfig(roles=("nurse",)), r"segment.roles are \['nurse'\], but its channels are"),
    ],
)
def test_a_turn_or_role_without_a_channel_is_refused(
    of: Document, config: SegmentConfig, message: str
) -> None:
    with pytest.raises(DocumentError, match=message):
        cut_call(config, of)


def test_pauses_of_each_channel_are_its_own() -> None:
    first, second = interview(1)[: 16000 * 20], interview(2)[: 16000 * 20]
    config = SegmentConfig(audio="pause", max_s=5.0)
    blocks = np.array_split(np.stack([first, second], axis=1), 7)
    segments = list(audio_segments(document(), iter(blocks), 16000, config, SPEAKERS))
    assert by_role(segments) == {
        "agent": plain(cut(first, config, 16000)),
        "customer": plain(cut(second, config, 16000)),
    }
    assert [s.start for s in segments] == sorted(s.start for s in segments)
