"""Automatic transcripts: the file that `transcribe` writes, byte by byte, and what is read of it."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilbert_ray.document.records import Recognition, Utterance
from hilbert_ray.transcript import AutomaticTranscript
from hilbert_ray.transcript.automatic import DOUBTFUL, UNWRITTEN
from hilbert_ray.transcript.cue import Flaw, FormatError
from hilbert_ray.transcript.json_items import OTHER_KEYS
from hilbert_ray.transcript.reading import LoadedText
from tests.transcript.reading_text import loaded

ASR: dict[str, Any] = {"name": "openai/whisper-tiny.en", "fingerprint": "0a1b", "rate_hz": 16000}
HELLO: dict[str, Any] = {
    "text": "Hello there, Zoë.",
    "start": 0.25,
    "end": 1.5004,
    "role": "agent",
    "confidence": 0.93756,
    "doubts": (),
    "words": (
        {"text": "Hello", "start": 0.25, "end": 0.6, "confidence": 0.9},
        {"text": "there,", "start": 0.6, "end": 0.8, "confidence": None},
        {"text": "Zoë.", "start": 0.8, "end": 1.5, "confidence": 1.0},
    ),
}
AGAIN: dict[str, Any] = {
    "text": "again and again and again",
    "start": 2.0,
    "end": 4.0,
    "role": None,
    "confidence": 0.4,
    "doubts": ("repetition",),
    "words": (),
}


def transcript(*utterances: dict[str, Any]) -> AutomaticTranscript:
    return AutomaticTranscript(
        document="visit-1", language="en", asr=ASR, duration_s=4.25, utterances=utterances
    )


def read(one: AutomaticTranscript) -> LoadedText:
    return loaded("visit-1.json", one.to_bytes().decode())


def test_the_file_is_one_utterance_a_line_without_what_is_empty() -> None:
    assert transcript(HELLO, AGAIN).to_bytes().decode() == (
        '{"schema": 1,\n"document": "visit-1",\n"language": "en",\n'
        '"asr": {"name": "openai/whisper-tiny.en", "fingerprint": "0a1b", "rate_hz": 16000},\n'
        '"duration_s": 4.25,\n"utterances": [\n'
        '  {"start": 0.25, "end": 1.5, "role": "agent", "text": "Hello there, Zoë.", "confidence": 0.9376, '
        '"words": [{"start": 0.25, "end": 0.6, "text": "Hello", "confidence": 0.9}, '
        '{"start": 0.6, "end": 0.8, "text": "there,"}, '
        '{"start": 0.8, "end": 1.5, "text": "Zoë.", "confidence": 1.0}]},\n'
        '  {"start": 2.0, "end": 4.0, "text": "again and again and again", "confidence": 0.4, '
        '"doubts": ["repetition"]}\n]}\n'
    )


def test_utterances_recogniser_and_doubts_are_read_back() -> None:
    assert read(transcript(HELLO, AGAIN)) == LoadedText(
        (
            Utterance(text="Hello there, Zoë.", start=0.25, end=1.5, role="agent"),
            Utterance(text="again and again and again", start=2.0, end=4.0),
        ),
        (Flaw(DOUBTFUL, 1),),
        # Three words of 0.9376 and five of 0.4.
        Recognition("openai/whisper-tiny.en", "0a1b", 0.6016),
    )


def test_speech_without_words_is_in_the_file_and_counted() -> None:
    lacking = replace(transcript(HELLO), unwritten=((1.6, 8.00049), (9.0, 15.5)))
    assert b'"unwritten": [[1.6, 8.0], [9.0, 15.5]],\n"utterances": [' in lacking.to_bytes()
    assert read(lacking).flaws == (Flaw(UNWRITTEN, 2),)


def test_whole_seconds_are_not_taken_for_milliseconds() -> None:
    """Lists of unknown origin whose times are all whole may be in milliseconds; these are not."""
    slow = {"text": "a", "start": 4000, "end": 9000}
    [one] = read(transcript(slow)).utterances
    assert (one.start, one.end) == (4000.0, 9000.0)


def test_a_recogniser_without_confidence_has_none() -> None:
    recognition = read(transcript({"text": "a", "start": 0.0, "end": 1.0})).recognition
    assert recognition == Recognition("openai/whisper-tiny.en", "0a1b", None)


def test_a_transcript_without_speech_names_the_recogniser_and_what_to_write() -> None:
    silent = transcript()
    assert json.loads(silent.to_bytes())["utterances"] == []
    with pytest.raises(FormatError, match=r"whisper-tiny\.en found no speech; write null as text_file"):
        read(silent)


def test_a_file_corrected_by_hand_is_read_with_its_unknown_keys_counted() -> None:
    values = json.loads(transcript(HELLO, AGAIN).to_bytes())
    values["utterances"][1] |= {"text": "once more", "reviewed": True}
    corrected = loaded("a.json", json.dumps(values, indent=2))
    assert corrected.utterances[1].text == "once more"
    assert Flaw(OTHER_KEYS, 1) in corrected.flaws
    # Without `asr` it is a list of utterances like any other: of unknown origin.
    del values["asr"]
    assert loaded("a.json", json.dumps(values)).recognition is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2}, "is an automatic transcript of schema 2, and this version reads 1"),
        ({"asr": {"name": "x"}}, "must have `name` and `fingerprint`"),
        ({"asr": {"name": 3, "fingerprint": "x"}}, "must have `name` and `fingerprint`"),
        ({"utterances": "hello"}, "`utterances` must be a list"),
        ({"utterances": [{"start": 0, "end": 1}]}, "utterance 0 without words"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(change: dict[str, Any], message: str) -> None:
    values = json.loads(transcript(HELLO).to_bytes()) | change
    with pytest.raises(FormatError, match=message):
        loaded("a.json", json.dumps(values))


def test_a_number_that_json_lacks_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        transcript({"text": "a", "start": 0.0, "end": float("nan")}).to_bytes()


times = st.floats(0, 36_000)
spoken = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(times, st.floats(0, 60), spoken.filter(str.strip)), min_size=1, max_size=5))
def test_any_words_and_times_come_back_to_the_millisecond(rows: list[tuple[float, float, str]]) -> None:
    rows.sort(key=lambda row: round(row[0], 3))
    written = [{"text": text, "start": start, "end": start + length} for start, length, text in rows]
    found = read(transcript(*written)).utterances
    assert [one.text for one in found] == [text for _, _, text in rows]
    for one, (start, length, _) in zip(found, rows, strict=True):
        assert (one.start, one.end) == (round(start, 3), round(start + length, 3))
