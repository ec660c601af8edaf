"""JSON transcripts of services: each in the shape that its documentation publishes."""

import json
from typing import Any

import pytest

from hilbert_ray.transcript import json_kinds
from hilbert_ray.transcript.cue import Cue, Flaw
from hilbert_ray.transcript.json_services import FAILED


def read(value: Any) -> tuple[Any, tuple[Flaw, ...]]:  # noqa: ANN401 - anything may be in JSON
    reading = json_kinds.read(json.dumps(value))
    return reading.content, reading.flaws


def deepgram_word(word: str, start: float, speaker: int | None = None) -> dict[str, Any]:
    more = {} if speaker is None else {"speaker": speaker, "speaker_confidence": 0.9}
    return {
        "word": word.lower().strip("."),
        "start": start,
        "end": start + 0.5,
        "confidence": 0.9,
        "punctuated_word": word,
        **more,
    }


def deepgram(channels: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    return {
        "metadata": {"request_id": "r", "duration": 9.0, "channels": len(channels)},
        "results": {"channels": [{"alternatives": [one]} for one in channels], **more},
    }


WORDS = [deepgram_word("Hello", 0.0, 0), deepgram_word("there.", 0.5, 0), deepgram_word("Hi.", 1.0, 1)]
SAID = "Hello there. Hi."
PARAGRAPHS = {
    "transcript": SAID,
    "paragraphs": [
        {
            "sentences": [{"text": "Hello there.", "start": 0.0, "end": 1.0}],
            "speaker": 0,
            "num_words": 2,
            "start": 0.0,
            "end": 1.0,
        },
        {
            "sentences": [{"text": "Hi.", "start": 1.0, "end": 1.5}],
            "speaker": 1,
            "num_words": 1,
            "start": 1.0,
            "end": 1.5,
        },
    ],
}
TURNS = [Cue("Hello there.", 0.0, 1.0, "0"), Cue("Hi.", 1.0, 1.5, "1")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            deepgram(
                [{"transcript": SAID, "words": WORDS}],
                utterances=[
                    {
                        "start": 0.0,
                        "end": 1.0,
                        "confidence": 0.9,
                        "channel": 0,
                        "transcript": "Hello there.",
                        "words": WORDS[:2],
                        "speaker": 0,
                        "id": "u",
                    },
                    {
                        "start": 1.0,
                        "end": 1.5,
                        "confidence": 0.9,
                        "channel": 0,
                        "transcript": "Hi.",
                        "words": WORDS[2:],
                        "speaker": 1,
                        "id": "v",
                    },
                ],
            ),
            TURNS,
        ),
        (deepgram([{"transcript": SAID, "words": WORDS, "paragraphs": PARAGRAPHS}]), TURNS),
        (deepgram([{"transcript": SAID, "words": WORDS}]), TURNS),
        (deepgram([{"transcript": SAID, "words": []}]), [Cue(SAID)]),
        (
            deepgram(
                [
                    {"transcript": "Hello.", "words": [deepgram_word("Hello.", 1.0)]},
                    {"transcript": "Hi.", "words": [deepgram_word("Hi.", 0.5)]},
                ]
            ),
            [Cue("Hi.", 0.5, 1.0, "1"), Cue("Hello.", 1.0, 1.5, "0")],
        ),
        (
            deepgram(
                [
                    {"transcript": "Hello.", "words": [deepgram_word("Hello.", 1.0, 0)]},
                    {"transcript": "Hi.", "words": [deepgram_word("Hi.", 0.5, 0)]},
                ]
            ),
            [Cue("Hi.", 0.5, 1.0, "1-0"), Cue("Hello.", 1.0, 1.5, "0-0")],
        ),
        (deepgram([{"transcript": "", "words": []}]), []),
    ],
    ids=["utterances", "paragraphs", "words", "transcript", "channels", "channels with speakers", "silence"],
)
def test_deepgram(value: object, expected: object) -> None:
    assert read(value) == (expected, ())


ASSEMBLY = {
    "id": "t",
    "audio_url": "https://example.org/a.mp3",
    "status": "completed",
    "text": "Smoke here. Yes.",
    "audio_duration": 5,
    "words": [
        {"text": "Smoke", "start": 250, "end": 650, "confidence": 0.9, "speaker": "A"},
        {"text": "here.", "start": 700, "end": 1250, "confidence": 0.9, "speaker": "A"},
        {"text": "Yes.", "start": 2000, "end": 2500, "confidence": 0.9, "speaker": "B"},
    ],
    "utterances": [
        {"speaker": "A", "text": "Smoke here.", "start": 250, "end": 1250, "confidence": 0.9, "words": []},
        {"speaker": "B", "text": "Yes.", "start": 2000, "end": 2500, "confidence": 0.9, "words": []},
    ],
}


@pytest.mark.parametrize("utterances", [ASSEMBLY["utterances"], None])
def test_assembly_ai_counts_in_milliseconds_with_utterances_and_without(utterances: object) -> None:
    expected = [Cue("Smoke here.", 0.25, 1.25, "A"), Cue("Yes.", 2.0, 2.5, "B")]
    assert read({**ASSEMBLY, "utterances": utterances}) == (expected, ())


def aws_item(content: str, start: str | None = None, **more: object) -> dict[str, Any]:
    times = {} if start is None else {"start_time": start, "end_time": f"{float(start) + 0.5:.2f}"}
    kind = "punctuation" if start is None else "pronunciation"
    return {**times, "type": kind, "alternatives": [{"confidence": "0.9", "content": content}], **more}


def aws(items: list[dict[str, Any]], **more: object) -> dict[str, Any]:
    whole = [{"transcript": "I wait. Sorry, yes."}]
    return {
        "jobName": "j",
        "accountId": "1",
        "status": "COMPLETED",
        "results": {"transcripts": whole, "items": items, **more},
    }


def test_aws_joins_words_to_turns_with_their_punctuation() -> None:
    items = [aws_item("I", "4.50"), aws_item("wait", "5.00"), aws_item("."), aws_item("Sorry", "8.00")]
    items += [aws_item(","), aws_item("yes", "8.50"), aws_item(".")]
    expected = [Cue("I wait.", 4.5, 5.5), Cue("Sorry, yes.", 8.0, 9.0)]
    assert read(aws(items)) == (expected, ())
    labelled = [Cue("I wait.", 4.5, 5.5, "spk_0"), Cue("Sorry, yes.", 8.0, 9.0, "spk_1")]
    named = [{**item, "speaker_label": "spk_0" if i < 3 else "spk_1"} for i, item in enumerate(items)]
    assert read(aws(named, speaker_labels={"speakers": 2, "segments": []})) == (labelled, ())


def test_aws_takes_speakers_from_the_labels_beside_and_utterances_where_it_has_them() -> None:
    items = [aws_item("I", "4.50"), aws_item("wait", "5.00"), aws_item("."), aws_item("Sorry", "6.00")]
    items += [aws_item(","), aws_item("yes", "6.50"), aws_item(".")]
    labels = [
        {
            "speaker_label": label,
            "items": [{"start_time": start, "end_time": "0", "speaker_label": label} for start in starts],
        }
        for label, starts in (("spk_0", ("4.50", "5.00")), ("spk_1", ("6.00", "6.50")))
    ]
    expected = [Cue("I wait.", 4.5, 5.5, "spk_0"), Cue("Sorry, yes.", 6.0, 7.0, "spk_1")]
    assert read(aws(items, speaker_labels={"speakers": 2, "segments": labels})) == (expected, ())
    audio = [
        {
            "id": 0,
            "transcript": "I wait.",
            "start_time": "4.4",
            "end_time": "5.6",
            "items": [0, 1, 2],
            "speaker_label": "spk_0",
        },
        {
            "id": 1,
            "transcript": "Sorry, yes.",
            "start_time": "6.0",
            "end_time": "7",
            "items": [3],
            "speaker_label": "spk_1",
        },
    ]
    expected = [Cue("I wait.", 4.4, 5.6, "spk_0"), Cue("Sorry, yes.", 6.0, 7.0, "spk_1")]
    assert read(aws(items, speaker_labels={"segments": labels}, audio_segments=audio)) == (expected, ())


def test_aws_separates_channels_although_their_speakers_overlap() -> None:
    one = [aws_item("I", "4.50", channel_label="ch_0"), aws_item("wait", "5.00", channel_label="ch_0")]
    two = [aws_item("Sorry", "4.75", channel_label="ch_1"), aws_item("yes", "5.25", channel_label="ch_1")]
    expected = [Cue("I wait", 4.5, 5.5, "ch_0"), Cue("Sorry yes", 4.75, 5.75, "ch_1")]
    channels = [{"channel_label": label, "items": items} for label, items in (("ch_0", one), ("ch_1", two))]
    whole = [{"transcript": "I wait Sorry yes"}]
    labels = {"channels": channels, "number_of_channels": 2}
    assert read(aws([*one, *two], channel_labels=labels, transcripts=whole)) == (expected, ())
    bare = [{key: v for key, v in item.items() if key != "channel_label"} for item in [*one, *two]]
    assert read(aws(bare, channel_labels=labels, transcripts=whole)) == (expected, ())


def test_aws_call_analytics() -> None:
    value = {
        "JobStatus": "COMPLETED",
        "Channel": "VOICE",
        "Participants": [{"ParticipantRole": "AGENT"}],
        "Transcript": [
            {
                "Content": "Hello.",
                "Id": "x",
                "BeginOffsetMillis": 250,
                "EndOffsetMillis": 1500,
                "ParticipantRole": "AGENT",
                "Sentiment": "NEUTRAL",
                "LoudnessScores": [70.0],
                "Items": [],
            },
            {
                "Content": "Hi.",
                "BeginOffsetMillis": 1250,
                "EndOffsetMillis": 2000,
                "ParticipantRole": "CUSTOMER",
            },
        ],
    }
    assert read(value) == ([Cue("Hello.", 0.25, 1.5, "AGENT"), Cue("Hi.", 1.25, 2.0, "CUSTOMER")], ())


def google_words(
    names: tuple[str, str], *words: tuple[str, object, object], **more: object
) -> list[dict[str, Any]]:
    return [{names[0]: start, names[1]: end, "word": word, **more} for word, start, end in words]


V1 = ("startTime", "endTime")


@pytest.mark.parametrize(
    "results",
    [
        [
            {
                "alternatives": [
                    {
                        "transcript": "hello there",
                        "confidence": 0.9,
                        "words": google_words(V1, ("hello", "0.500s", "1s"), ("there", "1s", "1.5s")),
                    }
                ],
                "resultEndTime": "2.1s",
                "languageCode": "en-us",
            },
            {"alternatives": [{"transcript": " bye", "words": google_words(V1, ("bye", "3s", "3.250s"))}]},
        ],
        [
            {
                "alternatives": [
                    {
                        "transcript": "hello there",
                        "words": google_words(
                            ("start_time", "end_time"),
                            ("hello", {"seconds": "0", "nanos": 500000000}, {"seconds": "1"}),
                            ("there", {"seconds": 1, "nanos": 0}, {"seconds": 1, "nanos": 500000000}),
                        ),
                    }
                ]
            },
            {
                "alternatives": [
                    {
                        "transcript": " bye",
                        "words": google_words(("startOffset", "endOffset"), ("bye", "3s", "3.250s")),
                    }
                ]
            },
        ],
    ],
    ids=["v1", "protocol buffers, v2"],
)
@pytest.mark.parametrize("wrapper", ["", "response", "batch"])
def test_google_and_what_it_is_wrapped_in(results: list[Any], wrapper: str) -> None:
    value: dict[str, Any] = {"results": results}
    if wrapper == "response":
        value = {"name": "1", "done": True, "response": {"@type": "x", **value}}
    elif wrapper == "batch":
        value = {"results": {"gs://bucket/a.wav": {"uri": "gs://x", "transcript": value}}}
    assert read(value) == ([Cue("hello there", 0.5, 1.5), Cue("bye", 3.0, 3.25)], ())


def test_google_with_speakers_repeats_all_words_in_its_last_result_which_are_read_once() -> None:
    plain = google_words(V1, ("hello", None, "1s"), ("yes", "1s", "1.5s"))
    tagged = [{**word, "speakerTag": tag} for word, tag in zip(plain, (1, 2), strict=True)]
    results = [
        {"alternatives": [{"transcript": "hello yes", "words": plain}]},
        {"alternatives": [{"words": tagged}]},
    ]
    assert read({"results": results}) == ([Cue("hello", 0.0, 1.0, "1"), Cue("yes", 1.0, 1.5, "2")], ())


def test_google_without_words_has_the_ends_of_its_results_and_channels_are_speakers() -> None:
    results = [
        {"alternatives": [{"transcript": "hello"}], "resultEndTime": "2s", "channelTag": 1},
        {"alternatives": [{"transcript": "hi"}], "resultEndTime": "1.5s", "channelTag": 2},
        {"alternatives": [{"transcript": "bye"}], "resultEndTime": "4s", "channelTag": 1},
    ]
    expected = [Cue("hello", 0.0, 2.0, "1"), Cue("hi", 0.0, 1.5, "2"), Cue("bye", 2.0, 4.0, "1")]
    assert read({"results": results}) == (expected, ())


def test_azure_counts_in_ticks_in_batches_and_in_milliseconds_when_fast() -> None:
    def phrase(text: str, channel: int, offset: float, **more: object) -> dict[str, Any]:
        return {
            "recognitionStatus": "Success",
            "channel": channel,
            "offset": f"PT{offset}S",
            "duration": "PT1.5S",
            "offsetInTicks": offset * 1e7,
            "durationInTicks": 1.5e7,
            "nBest": [{"confidence": 0.9, "lexical": text.lower(), "display": text}],
            **more,
        }

    batch = {
        "source": "https://example.org/a.wav",
        "durationInTicks": 9e7,
        "combinedRecognizedPhrases": [{"channel": 0, "display": "Hello. Bye."}],
        "recognizedPhrases": [
            phrase("Hello.", 0, 0.5, speaker=1),
            phrase("Bye.", 0, 4.0, speaker=2),
            {"recognitionStatus": "Failure", "channel": 0, "offsetInTicks": 6e7, "durationInTicks": 1e7},
        ],
    }
    expected = [Cue("Hello.", 0.5, 2.0, "1"), Cue("Bye.", 4.0, 5.5, "2")]
    assert read(batch) == (expected, (Flaw(FAILED),))
    batch["recognizedPhrases"] = [phrase("Hello.", 0, 0.5), phrase("Bye.", 0, 4.0), phrase("Hi.", 1, 1.0)]
    expected = [Cue("Hello.", 0.5, 2.0, "0"), Cue("Hi.", 1.0, 2.5, "1"), Cue("Bye.", 4.0, 5.5, "0")]
    assert read(batch) == (expected, ())
    fast = {
        "durationMilliseconds": 9000,
        "combinedPhrases": [{"text": "Hello. Bye."}],
        "phrases": [
            {
                "speaker": 1,
                "offsetMilliseconds": 500,
                "durationMilliseconds": 1500,
                "text": "Hello.",
                "words": [],
            },
            {"speaker": 2, "offsetMilliseconds": 4000, "durationMilliseconds": 1500, "text": "Bye."},
        ],
    }
    assert read(fast) == ([Cue("Hello.", 0.5, 2.0, "1"), Cue("Bye.", 4.0, 5.5, "2")], ())
    sdk = {"RecognitionStatus": "Success", "Offset": 5000000, "Duration": 15000000, "DisplayText": "Hello."}
    assert read(sdk) == ([Cue("Hello.", 0.5, 2.0)], ())
    assert read([sdk]) == ([Cue("Hello.", 0.5, 2.0)], ())


def test_rev_speechmatics_watson_gladia_and_eleven_labs() -> None:
    turns = [Cue("Hi, you.", 0.5, 1.5, "0"), Cue("Yes.", 2.0, 2.5, "1")]
    rev = {
        "monologues": [
            {
                "speaker": 0,
                "elements": [
                    {"type": "text", "value": "Hi", "ts": 0.5, "end_ts": 0.75, "confidence": 0.9},
                    {"type": "punct", "value": ", "},
                    {"type": "text", "value": "you", "ts": 1.0, "end_ts": 1.5},
                    {"type": "punct", "value": "."},
                ],
            },
            {"speaker": 1, "elements": [{"type": "text", "value": "Yes.", "ts": 2.0, "end_ts": 2.5}]},
        ]
    }
    assert read(rev) == (turns, ())

    def speechmatics(
        content: str, start: float, end: float, speaker: str, kind: str = "word"
    ) -> dict[str, Any]:
        more = {"attaches_to": "previous"} if kind == "punctuation" else {}
        alternatives = [{"content": content, "confidence": 1.0, "language": "en", "speaker": speaker}]
        return {"type": kind, "start_time": start, "end_time": end, "alternatives": alternatives, **more}

    results = [speechmatics("Hi", 0.5, 0.75, "0"), speechmatics(",", 0.75, 0.75, "0", "punctuation")]
    results += [speechmatics("you", 1.0, 1.5, "0"), speechmatics(".", 1.5, 1.5, "0", "punctuation")]
    results += [speechmatics("Yes", 2.0, 2.5, "1"), speechmatics(".", 2.5, 2.5, "1", "punctuation")]
    assert read({"format": "2.9", "metadata": {}, "results": results}) == (turns, ())

    watson = {
        "result_index": 0,
        "results": [
            {
                "final": True,
                "alternatives": [
                    {"transcript": "Hi, you. Yes. ", "timestamps": [["Hi,", 0.5, 0.75], ["you.", 1, 1.5]]}
                ],
            },
            {"final": True, "alternatives": [{"transcript": "Yes. ", "timestamps": [["Yes.", 2.0, 2.5]]}]},
        ],
        "speaker_labels": [
            {"from": start, "to": 3.0, "speaker": speaker, "confidence": 0.9, "final": True}
            for start, speaker in ((0.5, 0), (1, 0), (2.0, 1))
        ],
    }
    assert read(watson) == (turns, ())

    gladia = {
        "metadata": {"audio_duration": 3.0},
        "transcription": {
            "full_transcript": "Hi, you. Yes.",
            "utterances": [
                {
                    "start": cue.start_s,
                    "end": cue.end_s,
                    "text": cue.words,
                    "speaker": int(cue.speaker or 0),
                    "channel": 0,
                }
                for cue in turns
            ],
        },
    }
    assert read({"id": "x", "status": "done", "result": gladia}) == (turns, ())

    eleven = {
        "language_code": "en",
        "text": "Hi, you. Yes.",
        "words": [
            {"text": "Hi,", "start": 0.5, "end": 0.75, "type": "word", "speaker_id": "0"},
            {"text": " ", "start": 0.75, "end": 1.0, "type": "spacing", "speaker_id": "0"},
            {"text": "you.", "start": 1.0, "end": 1.5, "type": "word", "speaker_id": "0"},
            {"text": "Yes.", "start": 2.0, "end": 2.5, "type": "word", "speaker_id": "1"},
        ],
    }
    assert read(eleven) == (turns, ())
