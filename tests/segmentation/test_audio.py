"""Windows and turns: nothing falls between segments, nothing else than the selected turns is seen."""

import tracemalloc
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.config import SegmentConfig
from hilbert_ray.document.records import Document, DocumentError, TimesError, Utterance
from hilbert_ray.segmentation.audio import audio_segments, expected_seconds
from tests.segmentation.cutting import (
    RATE_HZ,
    RECORDING,
    ROLES,
    SIZES,
    assert_true_to,
    cut,
    document,
    places,
    spans,
    utterance,
)

TIMES = st.tuples(st.integers(0, 4000), st.integers(0, 1500), st.sampled_from(ROLES))


def on_the_grid(times: Sequence[tuple[int, int, str | None]], total: int) -> Document:
    """Return a document of utterances that begin and end at samples, none beyond its recording."""
    return document(
        *(
            utterance(min(start, total) / RATE_HZ, min(start + length, total) / RATE_HZ, role)
            for start, length, role in times
        )
    )


@given(total=st.integers(0, 1500), window=st.integers(1, 900), share=st.floats(0.01, 1.0), sizes=SIZES)
@settings(deadline=None)
def test_windows_are_those_of_the_plain_definition(
    total: int, window: int, share: float, sizes: list[int]
) -> None:
    hop = max(1, int(window * share))
    samples = RECORDING[:total]
    config = SegmentConfig(window_s=window / RATE_HZ, hop_s=hop / RATE_HZ)
    expected: list[tuple[int, int]] = []
    while not expected or expected[-1][1] < total:
        start = len(expected) * hop
        expected.append((start, min(start + window, total)))
    segments = cut(samples, config, sizes=sizes)
    assert spans(segments) == (expected if total else [])
    assert_true_to(samples, segments)
    assert places(spans(segments)) == set(range(total))
    assert expected_seconds(document(), config, total / RATE_HZ) == total / RATE_HZ


def test_windows_keep_the_tail_however_short() -> None:
    segments = cut(RECORDING[:2001], SegmentConfig(window_s=1.0, hop_s=1.0))
    assert [(s.start, s.end) for s in segments] == [(0.0, 1.0), (1.0, 2.0), (2.0, 2.001)]


def test_windows_of_one_sample_still_get_on() -> None:
    segments = cut(RECORDING[:5], SegmentConfig(window_s=0.003, hop_s=0.001))
    assert spans(segments) == [(0, 3), (1, 4), (2, 5)]
    assert spans(cut(RECORDING[:2], SegmentConfig(window_s=0.001, hop_s=0.001))) == [(0, 1), (1, 2)]


@given(
    times=st.lists(TIMES, min_size=1, max_size=8),
    total=st.integers(1, 4000),
    kind=st.sampled_from(["window", "turns"]),
    roles=st.sampled_from([(), ("judge",), ("judge", "witness")]),
    lengths=st.tuples(st.integers(1, 700), st.integers(1, 700)),
    sizes=SIZES,
)
@settings(deadline=None)
def test_segments_cover_what_the_selected_speakers_say_and_nothing_else(
    times: list[tuple[int, int, str | None]],
    total: int,
    kind: str,
    roles: tuple[str, ...],
    lengths: tuple[int, int],
    sizes: list[int],
) -> None:
    samples, of = RECORDING[:total], on_the_grid(times, total)
    window, hop = max(lengths), min(lengths)
    config = SegmentConfig(
        audio=kind,  # type: ignore[arg-type]
        roles=roles,
        window_s=window / RATE_HZ,
        hop_s=hop / RATE_HZ,
        max_s=window / RATE_HZ,
    )
    wanted = [(min(a, total), min(a + n, total)) for a, n, role in times if not roles or role in roles]
    if (roles or kind == "turns") and not wanted:
        with pytest.raises(DocumentError, match=r"'d7': .*needs utterances with times"):
            cut(samples, config, of=of)
        return
    segments = cut(samples, config, of=of, sizes=sizes)
    assert_true_to(samples, segments)
    expected = places(wanted) if roles or kind == "turns" else set(range(total))
    assert places(spans(segments)) == expected
    assert all(len(segment.samples) <= window for segment in segments)
    assert expected_seconds(of, config, total / RATE_HZ) * RATE_HZ == pytest.approx(len(expected), abs=1e-6)
    assert spans(cut(samples, config, of=of)) == spans(segments)
    if kind == "turns":
        cuts = sorted(
            (start, min(start + window, end)) for a, end in wanted for start in range(a, end, window)
        )
        assert sorted(spans(segments)) == cuts


@given(
    turns=st.lists(st.tuples(st.floats(0, 4), st.floats(0, 1.5)), min_size=1, max_size=6),
    kind=st.sampled_from(["window", "turns"]),
)
@settings(deadline=None)
def test_times_between_samples_are_covered_to_the_nearest_sample(
    turns: list[tuple[float, float]], kind: str
) -> None:
    of = document(*(utterance(min(a, 4.0), min(a + n, 4.0), "judge") for a, n in turns))
    config = SegmentConfig(audio=kind, roles=("judge",), window_s=0.5, hop_s=0.25, max_s=0.5)  # type: ignore[arg-type]
    covered = places(spans(cut(RECORDING, config, of=of)))
    rounded = [(round(min(a, 4.0) * RATE_HZ), round(min(a + n, 4.0) * RATE_HZ)) for a, n in turns]
    assert covered == places(rounded)
    assert expected_seconds(of, config, 4.0) * RATE_HZ == pytest.approx(len(covered), abs=len(turns))


def test_long_turns_are_cut_and_turns_inside_others_keep_their_order() -> None:
    of = document(utterance(0.0, 2.5), utterance(0.5, 0.7), utterance(1.2, 1.2), utterance(3.0, 3.1))
    segments = cut(RECORDING, SegmentConfig(audio="turns", max_s=1.0), of=of)
    assert [(s.start, s.end) for s in segments] == [(0, 1), (0.5, 0.7), (1, 2), (2, 2.5), (3, 3.1)]
    assert_true_to(RECORDING, segments)


def test_windows_with_roles_start_again_in_each_stretch() -> None:
    of = document(
        utterance(0.2, 0.9, "judge"), utterance(0.9, 2.0, "witness"), utterance(2.0, 3.0, "judge"),
        utterance(2.9, 3.3, "judge"),
    )  # fmt: skip
    segments = cut(RECORDING, SegmentConfig(window_s=0.5, hop_s=0.5, roles=("judge",)), of=of)
    assert [(s.start, s.end) for s in segments] == [
        (0.2, 0.7), (0.7, 0.9), (2.0, 2.5), (2.5, 3.0), (3.0, 3.3),
    ]  # fmt: skip


def test_a_last_turn_may_reach_a_little_beyond_the_recording_but_no_more() -> None:
    config = SegmentConfig(audio="turns", max_s=1.0)
    segments = cut(RECORDING, config, of=document(utterance(3.5, 4.4)))
    assert [(s.start, s.end) for s in segments] == [(3.5, 4.0)]
    assert expected_seconds(document(utterance(3.5, 4.4)), config, 4.0) == 0.5
    with pytest.raises(
        TimesError,
        match=r"'d7': utterance 1 ends at 4\.70 s, but the recording lasts 4\.00 s",
    ):
        cut(RECORDING, config, of=document(utterance(3.5, 4.6), utterance(4.6, 4.7)))


@pytest.mark.parametrize(
    ("config", "asked"),
    [
        (SegmentConfig(audio="turns"), r"segment\.audio `turns`"),
        (SegmentConfig(roles=("judge",)), r"segment\.roles \['judge'\]"),
        (SegmentConfig(audio="pause", roles=("judge",)), r"segment\.roles \['judge'\]"),
    ],
)
def test_turns_and_roles_without_times_are_refused(config: SegmentConfig, asked: str) -> None:
    for of in (document(), document(Utterance(text="so", role="judge"))):
        with pytest.raises(DocumentError, match=rf"document 'd7': {asked} needs utterances with times"):
            cut(RECORDING, config, rate_hz=16000, of=of)


@pytest.mark.parametrize(
    ("config", "of"),
    [
        (SegmentConfig(), document()),
        (SegmentConfig(window_s=20.0, hop_s=1.0), document()),
        # One turn over the whole recording, and a short one near its beginning.
        (SegmentConfig(audio="turns"), document(utterance(0, 1200), utterance(5, 6))),
        (SegmentConfig(roles=("judge",)), document(utterance(0, 1, "judge"), utterance(1198, 1199, "judge"))),
    ],
)
def test_memory_is_bounded_by_segments_not_by_recordings_turns_or_gaps(
    config: SegmentConfig, of: Document
) -> None:
    """As float32 at 4 kHz, the recording is 19 MB and the longest segment 0.5 MB."""
    tracemalloc.start()
    try:
        blocks = (np.zeros(8000, np.float32) for _ in range(600))
        last = [segment.end for segment in audio_segments(of, blocks, 4000, config)][-1]
        assert last in (1200.0, 1199.0)
        assert tracemalloc.get_traced_memory()[1] < 3e6
    finally:
        tracemalloc.stop()
