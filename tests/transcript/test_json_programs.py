"""JSON transcripts of programs: each as its documentation or source writes it, and what nobody writes."""

import json
from typing import Any

import pytest

from hilbert_ray.transcript import json_kinds
from hilbert_ray.transcript.clock import MILLISECONDS
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.json_items import OTHER_KEYS, TURNS_ONLY
from hilbert_ray.transcript.json_kinds import INCOMPLETE, NOT_READ
from hilbert_ray.transcript.json_programs import FRAMES

ONE = Cue(" hello there", 0.0, 3.0)
TWO = Cue(" again", 3.0, 6.5)


def read(value: Any) -> tuple[Any, tuple[Flaw, ...]]:  # noqa: ANN401 - anything may be in JSON
    reading = json_kinds.read(json.dumps(value))
    return reading.content, reading.flaws


WHISPER_KEYS: dict[str, Any] = {
    "seek": 0,
    "tokens": [50364, 7751, 456],
    "temperature": 0.0,
    "avg_logprob": -0.2,
    "compression_ratio": 1.1,
    "no_speech_prob": 0.01,
}
SEGMENTS: list[dict[str, Any]] = [
    {"id": 0, "start": 0.0, "end": 3.0, "text": " hello there", **WHISPER_KEYS},
    {"id": 1, "start": 3.0, "end": 6.5, "text": " again", **WHISPER_KEYS},
]
PAIR = [{"word": " a", "start": 0.1, "end": 0.2}, {"word": " b", "start": 0.2, "end": 0.3}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(
            {"text": " hello there again", "segments": SEGMENTS, "language": "en"}, [ONE, TWO], id="whisper"
        ),
        pytest.param(
            {
                "task": "transcribe",
                "language": "english",
                "duration": 6.5,
                "text": "hello there again",
                "segments": SEGMENTS,
            },
            [ONE, TWO],
            id="openai verbose_json",
        ),
        pytest.param(
            {"language": "english", "text": "a b", "segments": None, "words": PAIR},
            [Cue("a b", 0.1, 0.3)],
            id="openai verbose_json of words alone",
        ),
        pytest.param(
            {
                "task": "transcribe",
                "text": "hi yes",
                "segments": [
                    {
                        "type": "transcript.text.segment",
                        "id": "seg_001",
                        "start": 0.0,
                        "end": 1.5,
                        "text": "hi",
                        "speaker": "agent",
                    },
                    {
                        "type": "transcript.text.segment",
                        "id": "seg_002",
                        "start": 1.5,
                        "end": 2.0,
                        "text": "yes",
                        "speaker": "A",
                    },
                ],
                "usage": {"type": "duration", "seconds": 2},
            },
            [Cue("hi", 0.0, 1.5, "agent"), Cue("yes", 1.5, 2.0, "A")],
            id="openai diarized_json",
        ),
        pytest.param({"text": "hello there", "usage": {"type": "tokens"}}, "hello there", id="openai json"),
        pytest.param(
            {
                "segments": [
                    {
                        "start": 0.5,
                        "end": 3.0,
                        "text": "Hello there.",
                        "words": [
                            {
                                "word": "Hello",
                                "start": 0.5,
                                "end": 1.0,
                                "score": 0.9,
                                "speaker": "SPEAKER_00",
                            },
                            {
                                "word": "there.",
                                "start": 2.0,
                                "end": 3.0,
                                "score": 0.9,
                                "speaker": "SPEAKER_00",
                            },
                        ],
                        "speaker": "SPEAKER_00",
                    },
                    {"start": 3.5, "end": 4.0, "text": "2014.", "words": [{"word": "2014."}]},
                ],
                "word_segments": [{"word": "Hello", "start": 0.5, "end": 1.0, "score": 0.9}],
            },
            [Cue("Hello there.", 0.5, 3.0, "SPEAKER_00"), Cue("2014.", 3.5, 4.0)],
            id="whisperx",
        ),
        pytest.param(
            {
                "segments": [
                    {
                        "start": 0.5,
                        "end": 3.0,
                        "text": "yes no",
                        "words": [
                            {"word": "yes", "start": 0.5, "end": 1.0, "speaker": "S0"},
                            {"word": "no", "start": 1.5, "end": 3.0, "speaker": "S1"},
                        ],
                    }
                ]
            },
            [Cue("yes", 0.5, 1.0, "S0"), Cue("no", 1.5, 3.0, "S1")],
            id="whisperx, two speakers in a segment without one",
        ),
        pytest.param(
            [{"text": "2014.", "words": [{"word": "2014.", "start": 1.0, "end": 2.0}]}],
            [Cue("2014.", 1.0, 2.0)],
            id="times of the words where the segment has none",
        ),
        pytest.param(
            [
                [1, 0, 0.0, 3.0, " hello there", [50364], -0.2, 1.1, 0.01, None, 0.0],
                [2, 0, 3.0, 6.5, " again", [1], -0.2, 1.1, 0.01, None, 0.0],
            ],
            [ONE, TWO],
            id="faster-whisper, tuples",
        ),
        pytest.param(
            [SEGMENTS, {"language": "en", "duration": 6.5}], [ONE, TWO], id="faster-whisper, (segments, info)"
        ),
        pytest.param(
            {
                "transcription": [
                    {
                        "timestamps": {"from": "00:00:00,000", "to": "00:00:03,000"},
                        "offsets": {"from": 0, "to": 3000},
                        "text": " hello there",
                        "speaker": "1",
                    },
                    {
                        "timestamps": {"from": "00:00:03,000", "to": "00:00:06,500"},
                        "offsets": {"from": 3000, "to": 6500},
                        "text": " again",
                        "speaker": "?",
                    },
                ],
                "systeminfo": "AVX",
                "model": {"type": "base"},
                "params": {},
                "result": {"language": "en"},
            },
            [Cue(" hello there", 0.0, 3.0, "1"), TWO],
            id="whisper.cpp with stereo diarization",
        ),
        pytest.param(
            {
                "transcription": [
                    {"offsets": {"from": start, "to": start + 100}, "text": text}
                    for start, text in ((0, ""), (0, " he"), (100, "llo"), (200, " there."), (400, " Bye"))
                ]
            },
            [Cue("hello there.", 0.0, 0.3), Cue("Bye", 0.4, 0.5)],
            id="whisper.cpp, a token a segment",
        ),
        pytest.param(
            {
                "text": " hello there again",
                "chunks": [
                    {"timestamp": [0.0, 3.0], "text": " hello there"},
                    {"timestamp": [3.0, None], "text": " again"},
                ],
            },
            [ONE, Cue(" again", 3.0, None)],
            id="transformers chunks",
        ),
        pytest.param(
            {
                "text": " hello there. Yes",
                "chunks": [
                    {"text": " hello", "timestamp": [0.0, 0.5]},
                    {"text": " there.", "timestamp": [0.5, 0.9]},
                    {"text": " Yes", "timestamp": [0.9, 1.2]},
                ],
            },
            [Cue("hello there.", 0.0, 0.9), Cue("Yes", 0.9, 1.2)],
            id="transformers chunks of words",
        ),
        pytest.param(
            {
                "speakers": [{"speaker": "SPEAKER_01", "timestamp": [0.0, 3.0], "text": " hello there"}],
                "chunks": [{"timestamp": [0.0, 3.0], "text": " hello there"}],
                "text": " hello there",
            },
            [Cue(" hello there", 0.0, 3.0, "SPEAKER_01")],
            id="transformers chunks with speakers",
        ),
        pytest.param(
            {
                "text": "hello there",
                "timestamp": {
                    "word": [{"word": "hello", "start": 0.1, "end": 0.5, "start_offset": 1, "end_offset": 6}],
                    "segment": [
                        {
                            "segment": "hello there",
                            "start": 0.08,
                            "end": 3.0,
                            "start_offset": 1,
                            "end_offset": 37,
                        }
                    ],
                },
            },
            [Cue("hello there", 0.08, 3.0)],
            id="nemo hypothesis",
        ),
        pytest.param(
            {
                "version": "1.0.0",
                "segments": [
                    {"speaker": "Ana", "startTime": 0.5, "endTime": 3.0, "body": "hello there"},
                    {"speaker": "Bo", "startTime": 3.5, "endTime": 5.0, "body": "hi"},
                ],
            },
            [Cue("hello there", 0.5, 3.0, "Ana"), Cue("hi", 3.5, 5.0, "Bo")],
            id="podcasting 2.0",
        ),
        pytest.param(
            {
                "result": [
                    {"conf": 1.0, "start": 0.1, "end": 0.5, "word": "one"},
                    {"conf": 1.0, "start": 0.5, "end": 0.9, "word": "two"},
                    {"conf": 1.0, "start": 2.5, "end": 2.9, "word": "three"},
                ],
                "text": "one two three",
            },
            [Cue("one two", 0.1, 0.9), Cue("three", 2.5, 2.9)],
            id="vosk",
        ),
        pytest.param(
            {
                "transcripts": [
                    {"confidence": -1.0, "words": [{"word": "yes", "start_time": 0.5, "duration": 0.2}]}
                ]
            },
            [Cue("yes", 0.5, 0.7)],
            id="coqui",
        ),
        pytest.param(
            [
                {"text": "one", "start": 0.5, "end": 1.0, "speaker": "A"},
                {"text": "two", "start": 1.5, "end": 2.0, "speaker": 0},
                {"text": "three", "start": 2.5, "end": 3.0, "role": "C", "speaker": "c1"},
                {"text": "four", "start": 3.5, "end": 4.0, "speaker": 1.0},
                {"text": "five", "start": 4.5, "end": 5.0, "speaker": {"id": 7, "name": "Eve"}},
                {"text": "six", "start": 5.5, "end": 6.0, "speaker": None},
            ],
            [
                Cue("one", 0.5, 1.0, "A"),
                Cue("two", 1.5, 2.0, "0"),
                Cue("three", 2.5, 3.0, "C"),
                Cue("four", 3.5, 4.0, "1"),
                Cue("five", 4.5, 5.0, "Eve"),
                Cue("six", 5.5, 6.0),
            ],
            id="a list with speakers of all kinds",
        ),
        pytest.param(["one", "two"], [Cue("one"), Cue("two")], id="a list of strings"),
        pytest.param("one two", "one two", id="a string"),
        pytest.param(
            {"text": "one", "start": "00:00:01.500", "end": "PT2S"},
            [Cue("one", 1.5, 2.0)],
            id="one utterance",
        ),
        pytest.param(
            [{"text": "one", "start_ms": 500, "end_ms": 1250}],
            [Cue("one", 0.5, 1.25)],
            id="a unit in the name",
        ),
        pytest.param({"text": "", "segments": [], "language": "en"}, [], id="whisper on silence"),
    ],
)
def test_what_programs_write_is_read_whole(value: object, expected: object) -> None:
    assert read(value) == (expected, ())


def test_json_lines_and_values_one_after_the_other_are_read_in_order() -> None:
    lines = '{"text": "one", "start": 0.5, "end": 1}\n{"text": "two", "start": 1, "end": 2}\n'
    assert json_kinds.read(lines).content == [Cue("one", 0.5, 1.0), Cue("two", 1.0, 2.0)]
    vosk = [
        {"result": [{"start": t, "end": t + 0.5, "word": w}], "text": w} for t, w in ((0.0, "a"), (1.0, "b"))
    ]
    stream = "\n".join(json.dumps(value, indent=2) for value in [*vosk, {"text": ""}])
    assert json_kinds.read(stream).content == [Cue("a", 0.0, 0.5), Cue("b", 1.0, 1.5)]


def test_whole_numbers_that_can_only_be_milliseconds_are_read_as_such_and_reported() -> None:
    items = [
        {"text": "how are you today", "start": 250, "end": 2750},
        {"text": "fine", "start": 3000, "end": 3500},
    ]
    cues = [Cue("how are you today", 0.25, 2.75), Cue("fine", 3.0, 3.5)]
    assert read(items) == (cues, (Flaw(MILLISECONDS),))
    slow = [{"text": "how are you today", "start": 0, "end": 30}]
    assert read(slow) == ([Cue("how are you today", 0.0, 30.0)], ())


def test_what_is_not_read_is_reported() -> None:
    assert read([{"text": "one", "emotion": "calm"}, {"text": "two"}])[1] == (Flaw(OTHER_KEYS, 1),)
    assert read({"text": "one two three", "segments": [{"text": "one"}]})[1] == (Flaw(INCOMPLETE),)
    assert read({"text": "one", "topics": [{"name": "x"}]}) == ("one", (Flaw(NOT_READ),))
    turn = {"transcription": [{"offsets": {"from": 0, "to": 1}, "text": "a b", "speaker_turn_next": True}]}
    assert read(turn)[1] == (Flaw(TURNS_ONLY),)
    frames = {"text": "a", "timestep": {"segment": [{"segment": "a", "start_offset": 1, "end_offset": 6}]}}
    assert read(frames) == ([Cue("a")], (Flaw(FRAMES),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; write null"),
        ("{", "is not valid JSON: Expecting property name enclosed in double quotes in line 1, column 2"),
        ("[" * 100_000, "nested too deeply"),
        ('{"segments": [' + "[" * 100_000 + "]}", "nested too deeply"),
        ('{"segments": [{"text": "a", "start": ' + "1" * 5000 + "}]}", "number of thousands of digits"),
        ("null", "holds null as JSON; what is read is the output of Deepgram"),
        ("12", "holds a number as JSON"),
        ('{"foo": 1, "bar": []}', "no kind that is read, with the keys 'foo', 'bar'; what is read is"),
        ('{"text": "private", "segments": null}', "has `segments` that are null"),
        ('{"text": "private", "segments": []}', "has `segments` that are empty"),
        ('{"segments": "private"}', "has `segments` that are a string"),
        ('{"segments": ["private"]}', "has `segments` that are strings"),
        ('{"segments": [1]}', "has an utterance 0 that is a number"),
        ('{"segments": [{"start": 1}]}', "has an utterance 0 without words: none of its keys ('start')"),
        (
            '[["private", 0, 1]]',
            "has an utterance 0 that is a list; lists must be [..., start, end, text, ...]",
        ),
        ('[{"text": "private", "start": "soon"}]', "has an utterance 0 whose start is text that is no time"),
        ('[{"text": "private", "start": true}]', "has an utterance 0 whose start is a bool, no time"),
        ('[{"text": "private", "start": [1]}]', "has an utterance 0 whose start is a list, no time"),
        (
            '{"results": {"gs://a": {"transcript": {}}, "gs://b": {"transcript": {}}}}',
            "transcripts of 2 recordings",
        ),
    ],
)
def test_what_no_program_writes_is_refused_without_a_word_of_it(content: str, message: str) -> None:
    with pytest.raises(FormatError) as caught:
        json_kinds.read(content)
    assert message in str(caught.value)
    assert "private" not in str(caught.value)
