"""What repairs cost: a flaw is counted and repaired by its rule; what cannot be repaired is refused."""

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.transcript import repair as rules
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.flaws import FlawCounts
from hilbert_ray.transcript.repair import repair
from hilbert_ray.transcript.rolling import GROWING, ROLLING
from tests.transcript.reading_text import kinds, loaded, turns

Times = tuple[float | None, float | None]


def times(*cues: Cue) -> tuple[list[Times], dict[str, int]]:
    utterances, flaws = repair(cues)
    return [(one.start, one.end) for one in utterances], {flaw.kind: flaw.count for flaw in flaws}


def test_missing_times_are_shared_between_the_neighbours_by_characters() -> None:
    found, flaws = times(Cue("a", 1, 3), Cue("bb"), Cue("cccccc"), Cue("d", 7, 8))
    assert found == [(1, 3), (3, 4), (4, 7), (7, 8)]
    assert flaws == {rules.NO_TIMES: 2}
    assert times(Cue("a", 1), Cue("b", None, 4), Cue("c", 5))[0] == [(1, 2.5), (2.5, 4), (5, 5 + 1 / 15)]


def test_where_nothing_limits_them_words_last_as_long_as_speech_does() -> None:
    assert times(Cue("x" * 30), Cue("a", 7, 8))[0] == [(5, 7), (7, 8)]
    assert times(Cue("a", 7, 8), Cue("y" * 15))[0] == [(7, 8), (8, 9)]
    assert times(Cue("x" * 30), Cue("a", 1, 8))[0] == [(0, 1), (1, 8)]


def test_an_end_before_its_start_counts_as_missing() -> None:
    found, flaws = times(Cue("a", 1, 0.5), Cue("b", 2, 3))
    assert found == [(1, 2), (2, 3)]
    assert flaws == {rules.BACKWARDS: 1}


def test_no_numbers_count_as_missing_and_are_refused_where_nothing_else_is_there() -> None:
    found, flaws = times(Cue("a", 1, math.nan), Cue("b", 2, 10**400), Cue("c", 3, 4))
    assert found == [(1, 2), (2, 3), (3, 4)]
    assert flaws == {rules.NOT_A_TIME: 2}
    with pytest.raises(FormatError, match="has no time that is a finite number; write seconds"):
        repair([Cue("a", math.nan, math.inf)])


def test_a_start_a_moment_before_the_recording_is_its_start() -> None:
    assert times(Cue("a", -0.5, 1), Cue("b", -0.1, 2, "B")) == (
        [(0, 1), (0, 2)],
        {rules.BEFORE_ZERO: 2},
    )


@pytest.mark.parametrize("time", [-0.6, -100.0, 4e7])
def test_times_that_are_no_seconds_of_a_recording_are_refused(time: float) -> None:
    with pytest.raises(FormatError, match=re.escape(f"utterance 1 with the time {time:g} s; times are")):
        repair([Cue("a", 0, 1), Cue("b", time, None)])


def test_cues_are_sorted_by_start_and_those_without_follow_the_cue_before() -> None:
    utterances, flaws = repair([Cue("c", 5, 6), Cue("d"), Cue("a", 1, 2), Cue("b", 1, 2, "B")])
    assert [one.text for one in utterances] == ["a", "b", "c", "d"]
    assert Flaw(rules.UNORDERED, 2) in flaws


def test_overlaps_of_one_speaker_are_reported_and_those_of_two_are_not() -> None:
    assert times(Cue("a", 0, 3, "A"), Cue("b", 1, 2, "B"), Cue("c", 2.5, 4, "A"))[1] == {}
    assert times(Cue("a", 0, 3, "A"), Cue("b", 1, 2, "B"), Cue("c", 2, 4, "A"))[1] == {rules.OVERLAP: 1}


def test_times_for_fewer_than_half_are_refused() -> None:
    with pytest.raises(FormatError, match="has times for 1 of 3 utterances"):
        repair([Cue("a", 0, 1), Cue("b"), Cue("c")])
    with pytest.raises(FormatError, match="has no words; write null"):
        repair([Cue(" ", 0, 1), Cue("\0")])


def test_half_pairs_and_zero_bytes_are_no_text() -> None:
    utterances, flaws = repair([Cue("a\ud800b\0"), Cue("\ud83d\ude00")])
    assert [one.text for one in utterances] == ["a�b", "\N{GRINNING FACE}"]
    assert flaws == (Flaw(rules.CHARACTERS, 2),)


maybe_time = st.none() | st.floats(0, 1e4) | st.sampled_from([math.nan, 5, 0])
any_cues = st.lists(
    st.builds(
        Cue, st.text("ab ", min_size=1, max_size=9), maybe_time, maybe_time, st.sampled_from([None, "A"])
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=300, deadline=None)
@given(any_cues)
def test_repaired_utterances_hold_all_words_in_order_with_times_that_rise(cues: list[Cue]) -> None:
    try:
        utterances, _ = repair(cues)
    except FormatError:
        return
    assert sorted((one.text, one.role or "") for one in utterances) == sorted(
        (cue.words, cue.speaker or "") for cue in cues
    )
    starts = [one.start for one in utterances if one.start is not None]
    assert len(starts) in (0, len(cues))
    assert starts == sorted(starts)
    assert all(one.end is not None and one.start <= one.end for one in utterances if one.start is not None)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1e4), st.floats(0, 50)), min_size=1, max_size=8))
def test_what_has_no_flaw_is_not_touched(spans: list[tuple[float, float]]) -> None:
    cues = [Cue(f"w{i}", start, start + length, f"S{i}") for i, (start, length) in enumerate(sorted(spans))]
    utterances, flaws = repair(cues)
    assert flaws == ()
    assert [(one.text, one.start, one.end, one.role) for one in utterances] == [
        (cue.words, cue.start_s, cue.end_s, cue.speaker) for cue in cues
    ]


YOUTUBE = """\
WEBVTT
Kind: captions
Language: en

00:00:00.160 --> 00:00:02.310 align:start position:0%
 \nso<00:00:00.480><c> I</c><00:00:00.800><c> went</c>

00:00:02.310 --> 00:00:02.320 align:start position:0%
so I went
 \n
00:00:02.320 --> 00:00:04.550 align:start position:0%
so I went
home<00:00:02.800><c> that</c><00:00:03.120><c> day</c>

00:00:04.550 --> 00:00:04.560 align:start position:0%
home that day
 \n
00:00:04.560 --> 00:00:06.000 align:start position:0%
home that day
and<00:00:05.000><c> slept</c>
"""


def test_captions_that_roll_are_counted_once() -> None:
    found = loaded("t.vtt", YOUTUBE).utterances
    assert [one.text for one in found] == ["so I went", "home that day", "and slept"]
    assert [one.start for one in found] == pytest.approx([0.16, 2.32, 4.56])
    assert [one.end for one in found] == pytest.approx([2.31, 4.55, 6.0])
    assert kinds("t.vtt", YOUTUBE) == {ROLLING: 1}


def srt(*words: str) -> str:
    """Return a SubRip file of captions with these words."""
    return "".join(f"{i}\n00:00:0{i},000 --> 00:00:0{i},900\n{one}\n\n" for i, one in enumerate(words))


def test_what_is_said_twice_is_not_rolling() -> None:
    text = srt("no", "no", "no\nyes")
    assert turns("t.srt", text) == [(None, "no"), (None, "no"), (None, "no yes")]


def test_captions_that_grow_are_kept_once_from_the_first_words_on() -> None:
    words = ["so", "so I", "so I went", "and", "and slept"]
    text = srt(*words)
    assert [(one.text, one.start, one.end) for one in loaded("t.srt", text).utterances] == [
        ("so I went", 0, 2.9), ("and slept", 3, 4.9),
    ]  # fmt: skip
    assert kinds("t.srt", text) == {GROWING: 1}


def test_flaws_of_many_documents_are_one_line_for_each_kind() -> None:
    first, second = FlawCounts(), FlawCounts()
    first.add("a", [Flaw("late ends", 2), Flaw("late ends"), Flaw("gaps")])
    for doc_id in "bcde":
        second.add(doc_id, [Flaw("late ends")])
    first.merge(second)
    assert list(first.lines()) == ["7 late ends: in 5 documents, such as 'a', 'b' and 'c'", "1 gaps: in 'a'"]
