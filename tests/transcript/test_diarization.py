"""Speakers from a diarization: by overlap, with what cannot be assigned counted."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilbert_ray.document.records import Document, Recognition, Utterance
from hilbert_ray.transcript import AutomaticTranscript, LoadedText, TranscriptError, load_text
from hilbert_ray.transcript.cue import Flaw, FormatError
from hilbert_ray.transcript.diarization import (
    CONTESTED,
    HAS_SPEAKERS,
    NO_TRANSCRIPT,
    NOBODY,
    UNTIMED,
    Turn,
    with_speakers,
)
from hilbert_ray.transcript.nist import read_turns

RTTM = (
    ";; by some toolkit\n"
    "SPKR-INFO rec 1 <NA> <NA> <NA> unknown Ana <NA> <NA>\n"
    "SPEAKER rec 1 0.00 4.00 <NA> <NA> Ana <NA> <NA>\n"
    "SPEAKER rec 1 3.00 2.50 <NA> <NA> Bo <NA> <NA>\n"
    "SPEAKER rec 1 8.00 1.00 <NA> <NA> <NA> <NA> <NA>\n"
)
VTT = (
    "WEBVTT\n\n00:00.000 --> 00:02.000\nhello\n\n00:02.500 --> 00:05.000\nmhm\n\n"
    "00:08.000 --> 00:09.000\nwell\n"
)


def said(*times: tuple[float, float]) -> tuple[Utterance, ...]:
    return tuple(Utterance(text="words", start=start, end=end) for start, end in times)


def roles(text: Sequence[Utterance], turns: Sequence[Turn]) -> list[str | None]:
    found = with_speakers(tuple(text), turns)[0]
    assert isinstance(found, tuple)
    return [one.role for one in found]


def test_turns_are_those_of_known_speakers() -> None:
    assert read_turns(RTTM) == [Turn(0.0, 4.0, "Ana"), Turn(3.0, 5.5, "Bo")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("LEXEME rec 1 0.5 0.2 hello lex Ana 0.9\n", "has no line SPEAKER with a speaker"),
        ("WEBVTT\n", "has 1 fields in line 1; a line is `type recording channel start duration"),
        (
            "SPEAKER a 1 -1 2 <NA> <NA> Ana <NA>\n",
            "has a line 1 from -1 s for 2 s; a turn needs a start of 0",
        ),
        ("SPEAKER a 1 1 -2 <NA> <NA> Ana <NA>\n", "has a line 1 from 1 s for -2 s"),
        ("SPEAKER a 1 1 <NA> <NA> <NA> Ana <NA>\n", "has a line 1 from 1 s for <NA> s"),
        ("SPEAKER a 1 0 1 <NA> <NA> A <NA>\nSPEAKER b 1 0 1 <NA> <NA> A <NA>\n", "more than one recording"),
    ],
)
def test_what_is_no_diarization_is_refused(content: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        read_turns(content)
    assert message in str(caught.value)


def test_an_utterance_gets_the_speaker_who_overlaps_it_the_longest() -> None:
    turns = [Turn(0, 4, "Ana"), Turn(3, 6.0000001, "Bo"), Turn(20, 21, "Ana")]
    text = said((0, 2), (3.5, 6), (3, 4), (6, 9), (20.5, 20.5))
    found, flaws = with_speakers(text, turns)
    assert isinstance(found, tuple)
    assert [one.role for one in found] == ["Ana", "Bo", "Ana", None, "Ana"]
    assert [(one.text, one.start, one.end) for one in found] == [
        (one.text, one.start, one.end) for one in text
    ]
    assert flaws == (Flaw(NOBODY, 1), Flaw(CONTESTED, 1))


@pytest.mark.parametrize(
    ("text", "flaw"),
    [
        (None, NO_TRANSCRIPT),
        ("just words", UNTIMED),
        ((Utterance(text="words"),), UNTIMED),
        ((*said((0, 1)), Utterance(text="more", start=1, end=2, role="Cy")), HAS_SPEAKERS),
    ],
)
def test_what_cannot_be_used_is_reported_and_the_transcript_stays(
    text: str | tuple[Utterance, ...] | None, flaw: str
) -> None:
    assert with_speakers(text, [Turn(0, 4, "Ana")]) == (text, (Flaw(flaw),))


def test_a_name_for_each_turn_is_no_speaker() -> None:
    turns = [Turn(number, number + 1, f"turn{number}") for number in range(1001)]
    with pytest.raises(FormatError, match="names 1001 speakers, and a recording has at most 1000"):
        with_speakers(said((0, 1)), turns)


SPANS = st.tuples(st.integers(0, 40), st.integers(1, 12)).map(lambda pair: (pair[0], sum(pair)))


@given(
    utterances=st.lists(SPANS, min_size=1, max_size=8),
    turns=st.lists(st.tuples(SPANS, st.sampled_from("ABC")), min_size=1, max_size=12),
)
def test_overlaps_are_those_counted_second_by_second(
    utterances: list[tuple[int, int]], turns: list[tuple[tuple[int, int], str]]
) -> None:
    """Against sets of whole seconds, in which turns of one speaker that overlap count once."""
    found = roles(said(*utterances), [Turn(start, end, who) for (start, end), who in turns])
    for (start, end), role in zip(utterances, found, strict=True):
        spoken = {
            who: len({s for (a, b), name in turns if name == who for s in range(a, b)} & {*range(start, end)})
            for who in "ABC"
        }
        most = max(spoken.values())
        assert (role is None) == (most == 0)
        assert role is None or spoken[role] == most


def test_a_document_reads_its_words_and_who_says_them_from_two_files(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(VTT)
    (tmp_path / "a.rttm").write_text(RTTM)
    document = Document(doc_id="a", text_file=str(tmp_path / "a.vtt"), diarization=str(tmp_path / "a.rttm"))
    assert load_text(document) == LoadedText(
        (
            Utterance(text="hello", start=0.0, end=2.0, role="Ana"),
            Utterance(text="mhm", start=2.5, end=5.0, role="Bo"),
            Utterance(text="well", start=8.0, end=9.0),
        ),
        (Flaw(NOBODY, 1), Flaw(CONTESTED, 1)),
    )
    automatic = AutomaticTranscript(
        document="a", language=None, asr={"name": "whisper", "fingerprint": "0a1b"}, duration_s=9.0,
        utterances=[{"start": 2.5, "end": 5.0, "text": "mhm", "confidence": 0.5}],
    )  # fmt: skip
    (tmp_path / "a.json").write_bytes(automatic.to_bytes())
    loaded = load_text(replace(document, text_file=str(tmp_path / "a.json")))
    assert loaded.text == (Utterance(text="mhm", start=2.5, end=5.0, role="Bo"),)
    assert loaded.recognition == Recognition("whisper", "0a1b", 0.5)
    (tmp_path / "a.rttm").unlink()
    with pytest.raises(TranscriptError, match=r"document 'a': there is no diarization .*a\.rttm; correct"):
        load_text(document)
