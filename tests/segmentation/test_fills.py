"""Fills: as many consecutive segments as fit, each where its audio is, and nothing that is no segment's."""

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.document.records import AudioSegment
from hilbert_ray.segmentation.fills import heard_together

RATE_HZ = 100
RECORDING = np.arange(1, 4001, dtype=np.float32)  # no two samples are alike, so each tells where it is from


def segment(start: int, length: int, channel: int = 0, role: str | None = None) -> AudioSegment:
    samples = RECORDING[start : start + length]
    start_s, end_s = start / RATE_HZ, (start + length) / RATE_HZ
    return AudioSegment(start=start_s, end=end_s, samples=samples, channel=channel, role=role)


def spans(groups: Sequence[Sequence[AudioSegment]]) -> list[list[tuple[float, float]]]:
    return [[(one.start, one.end) for one in group] for group in groups]


def test_windows_fill_an_input_and_the_rest_of_the_recording_gets_another() -> None:
    windows = [segment(start, min(10, 65 - start)) for start in range(0, 65, 10)]
    groups = list(heard_together(windows, 30, RATE_HZ))
    assert [[one.offset for one in group] for group in groups] == [[0, 10, 20], [0, 10, 20], [0]]
    for group, expected in zip(groups, (RECORDING[:30], RECORDING[30:60], RECORDING[60:65]), strict=True):
        for one in group:
            assert one.fill is group[0].fill
            np.testing.assert_array_equal(one.fill, expected)


def test_windows_that_overlap_are_in_a_fill_once() -> None:
    windows = [segment(start, 10) for start in range(0, 40, 5)]
    groups = list(heard_together(windows, 30, RATE_HZ))
    assert [len(group) for group in groups] == [5, 3]
    np.testing.assert_array_equal(groups[0][0].fill, RECORDING[:30])
    np.testing.assert_array_equal(groups[1][0].fill, RECORDING[25:45])
    assert all(np.shares_memory(one.samples, one.fill) for group in groups for one in group)


def test_what_is_nobodys_segment_is_not_heard() -> None:
    """An interviewer between two answers, with `segment.roles`, must not reach the features."""
    answers = [segment(0, 8), segment(20, 9), segment(25, 2)]
    [group] = heard_together(answers, 30, RATE_HZ)
    np.testing.assert_array_equal(group[0].fill, np.concatenate([RECORDING[:8], RECORDING[20:29]]))
    assert [one.offset for one in group] == [0, 8, 13]


def test_channels_are_heard_apart_and_come_when_their_fill_ends() -> None:
    both = [segment(start, 10, channel) for start in (0, 10, 20, 30) for channel in (0, 1)]
    groups = list(heard_together(both, 30, RATE_HZ))
    assert [(group[0].channel, len(group)) for group in groups] == [(0, 3), (1, 3), (0, 1), (1, 1)]


def test_turns_of_one_channel_are_heard_together_whoever_speaks() -> None:
    turns = [segment(0, 10, role="patient"), segment(10, 5, role="doctor"), segment(15, 9, role="patient")]
    [group] = heard_together(turns, 30, RATE_HZ)
    assert [one.role for one in group] == ["patient", "doctor", "patient"]


def test_each_is_alone_without_a_length_or_above_it() -> None:
    pair = [segment(0, 10), segment(10, 40), segment(50, 5)]
    assert [one for (one,) in heard_together(pair, 0, RATE_HZ)] == pair
    assert all(one.fill is None for one in pair)
    assert spans(list(heard_together(pair, 30, RATE_HZ))) == [[(0.0, 0.1)], [(0.1, 0.5)], [(0.5, 0.55)]]


@given(
    moves=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30), st.integers(0, 2)), max_size=30),
    length=st.integers(30, 90),
)
def test_a_fill_is_the_union_of_its_segments_and_the_next_would_not_have_fitted(
    moves: list[tuple[int, int, int]], length: int
) -> None:
    start, segments = 0, []
    for move, size, channel in moves:
        start += move
        segments.append(segment(start, size, channel))
    groups = list(heard_together(segments, length, RATE_HZ))
    for channel in range(3):
        own = [group for group in groups if group[0].channel == channel]
        assert [span for group in spans(own) for span in group] == [
            (one.start, one.end) for one in segments if one.channel == channel
        ]
        unions = []
        for group in own:
            fill = group[0].fill
            assert fill is not None
            for one in group:
                expected = RECORDING[round(one.start * RATE_HZ) : round(one.end * RATE_HZ)]
                np.testing.assert_array_equal(one.samples, expected)
                np.testing.assert_array_equal(fill[one.offset : one.offset + len(expected)], expected)
            unions.append({float(sample) for one in group for sample in one.samples})
            np.testing.assert_array_equal(np.unique(fill), sorted(unions[-1]))
            assert len(fill) == len(unions[-1]) <= length
        for union, following in zip(unions, own[1:], strict=False):
            assert len(union | set(following[0].samples.tolist())) > length
