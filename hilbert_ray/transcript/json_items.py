"""Entries of lists in JSON transcripts: which of their keys are the words, times and speaker."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hilbert_ray.document import Seconds
from hilbert_ray.transcript.clock import NoTimeError, is_whole, seconds
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.words import Word, join

Item = Mapping[str, Any]
TEXT = (
    *("text", "transcript", "body", "segment", "utterance", "sentence", "content", "value", "Content"),
    *("punctuated_word", "word", "display", "DisplayText", "transcription", "words", "char"),
)
"""Keys of the words of an entry; the first that holds a string counts."""
WHERE: Mapping[str, tuple[tuple[str, Seconds], ...]] = {
    "start": (
        *((key, 1.0) for key in ("start", "start_time", "startTime", "startOffset", "start_s", "begin")),
        *(
            (key, 1.0)
            for key in ("begin_time", "beginTime", "onset", "from", "start_sec", "ts", "start_seconds")
        ),
        *((key, 0.001) for key in ("start_ms", "startMs", "offsetMilliseconds", "BeginOffsetMillis")),
        *((key, 0.001) for key in ("begin_ms", "startTimeMs", "start_time_ms", "offsetInMs", "offset_ms")),
    ),
    "end": (
        *((key, 1.0) for key in ("end", "end_time", "endTime", "endOffset", "end_s", "stop", "stop_time")),
        *((key, 1.0) for key in ("stopTime", "to", "end_sec", "end_ts", "end_seconds")),
        *((key, 0.001) for key in ("end_ms", "endMs", "EndOffsetMillis", "endTimeMs", "end_time_ms")),
    ),
    "duration": (
        *((key, 1.0) for key in ("duration", "dur", "duration_s")),
        *((key, 0.001) for key in ("durationMilliseconds", "duration_ms", "durationMs", "durationInMs")),
    ),
}
"""Keys of times, and their units in seconds; the first that is there counts."""
SPEAKER = (
    *("role", "speaker", "speaker_label", "speakerLabel", "speaker_id", "speakerId", "speakerTag"),
    *("speaker_tag", "speaker_name", "speakerName", "ParticipantRole", "participant", "channel_label"),
)
PAIRS: Mapping[str, Seconds] = {"offsets": 0.001, "timestamps": 1.0, "timestamp": 1.0}
"""Keys of a start and an end in one value, a list or `{from, to}`, and their units in seconds."""
_IGNORED = frozenset(
    (
        *(
            "id",
            "seek",
            "tokens",
            "temperature",
            "avg_logprob",
            "compression_ratio",
            "no_speech_prob",
            "words",
        ),
        *(
            "confidence",
            "score",
            "probability",
            "prob",
            "chars",
            "language",
            "language_code",
            "type",
            "channel",
        ),
        *(
            "start_offset",
            "end_offset",
            "segment_id",
            "no_caption_prob",
            "index",
            "sentiment",
            "speaker_turn_next",
        ),
        *(
            "is_final",
            "final",
            "logprob",
            "avg_log_prob",
            "locale",
            "whole_word_timestamps",
            "transient",
            "p",
        ),
        *(
            "num_words",
            "language_probability",
            "audio_event",
            "redacted",
            "Items",
            "Sentiment",
            "LoudnessScores",
        ),
        *(
            "avg_log_probability",
            "no_speech_probability",
            "t_dtw",
            "conf",
            "parent_id",
            "word_index",
            "Id",
            "doubts",
        ),
        *("IssuesDetected", "sentences", "speaker_confidence", "languageCode", "items", "alternatives"),
    )
)
"""Keys that say how sure a recogniser is, count entries, or hold the words again."""
OTHER_KEYS = "utterances with keys that are not read"
TURNS_ONLY = "marks that the speaker changes, which name no speaker, not read"


def cues(items: Sequence[object], flaws: list[Flaw]) -> list[Cue]:
    """Return the cue of each entry of a list, and append what is not read to `flaws`.

    Entries are strings; lists `[..., start, end, text, ...]`, as faster-whisper's tuples become in JSON; or
    objects with a text under one of the keys of `TEXT`.

    Raises:
        FormatError: naming the entry and what it is.
    """
    found = [cue(index, item) for index, item in enumerate(items)]
    known = _IGNORED.union(TEXT, SPEAKER, PAIRS, *([key for key, _ in keys] for keys in WHERE.values()))
    others = sum(isinstance(item, dict) and not known.issuperset(item) for item in items)
    if others:
        flaws.append(Flaw(OTHER_KEYS, others))
    turns = sum(isinstance(item, dict) and item.get("speaker_turn_next") is True for item in items)
    if turns:
        flaws.append(Flaw(TURNS_ONLY, turns))
    return found


def cue(index: int, item: object) -> Cue:
    """Return the cue of an entry.

    Raises:
        FormatError: naming the entry and what it is.
    """
    if isinstance(item, str):
        return Cue(item)
    if isinstance(item, list):
        return _from_list(index, item)
    if not isinstance(item, dict):
        raise FormatError(
            f"has an utterance {index} that is {a(item)}; it must be a string, or an object with the "
            f"words as "
            "`text`"
        )
    words = text_of(item)
    if words is None:
        raise FormatError(
            f"has an utterance {index} without words: none of its keys ({named(item)}) is one of "
            f"{', '.join(TEXT)} with a string"
        )
    start, end = times(index, item)
    if start is None or end is None:
        start, end = _times_of_words(index, item, start, end)
    return Cue(words, start, end, speaker(item))


def _from_list(index: int, item: list[Any]) -> Cue:
    strings = [place for place, value in enumerate(item) if isinstance(value, str)]
    if len(strings) != 1 or strings[0] < 2:
        raise FormatError(
            f"has an utterance {index} that is a list; lists must be [..., start, end, text, ...] with "
            f"one string"
        )
    place = strings[0]
    start, end = (time(index, name, item[place - back], 1.0) for name, back in (("start", 2), ("end", 1)))
    return Cue(item[place], start, end)


def text_of(item: Item) -> str | None:
    """Return the words of an entry; empty where they are null, None if it has no key for words."""
    for key in TEXT:
        if isinstance(item.get(key), str):
            return str(item[key])
    return "" if any(key in item and item[key] is None for key in TEXT) else None


def speaker(item: Item) -> str | None:
    """Return the speaker of an entry: its role, name or number as text."""
    for key in SPEAKER:
        value = item.get(key)
        if isinstance(value, dict):
            value = next(
                (value[name] for name in ("name", "label", "id") if value.get(name) is not None), None
            )
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            # whisper.cpp writes a question mark for a speaker that it could not tell.
            return None if str(value).strip() in ("", "?") else str(value)
    return None


def times(index: int, item: Item) -> tuple[Seconds | None, Seconds | None]:
    """Return start and end of an entry in seconds, None where it has none.

    Raises:
        FormatError: for a value that is no time.
    """
    for key, unit_s in PAIRS.items():
        pair = item.get(key)
        values = [pair.get("from"), pair.get("to")] if isinstance(pair, dict) else pair
        if isinstance(values, list) and len(values) == 2:
            return time(index, key, values[0], unit_s), time(index, key, values[1], unit_s)
    start, end, length = (_first(index, item, keys) for keys in WHERE.values())
    if end is None and start is not None and length is not None:
        end = start + length
    return start, end


def _first(index: int, item: Item, keys: Iterable[tuple[str, Seconds]]) -> Seconds | None:
    for key, unit_s in keys:
        if item.get(key) is not None:
            return time(index, key, item[key], unit_s)
    return None


def _times_of_words(
    index: int, item: Item, start: Seconds | None, end: Seconds | None
) -> tuple[Seconds | None, Seconds | None]:
    """Return an entry's times, from its first and last word where it has none itself."""
    words = item.get("words")
    if not isinstance(words, list):
        return start, end
    inner = [times(index, word) for word in words if isinstance(word, dict)]
    if start is None:
        start = next((first for first, _ in inner if first is not None), None)
    if end is None:
        end = next((last for _, last in reversed(inner) if last is not None), None)
    return start, end


def time(index: int, key: str, value: object, unit_s: Seconds) -> Seconds | None:
    """Return a time in seconds.

    Raises:
        FormatError: naming the entry and the key.
    """
    try:
        return seconds(value, unit_s)
    except NoTimeError as error:
        raise FormatError(f"has an utterance {index} whose {key} {error}") from None


def words(items: Sequence[object], channel: str | None = None) -> list[Word]:
    """Return words with their times and speakers, of entries whose text is one word.

    Raises:
        FormatError: naming the entry and what it is.
    """
    found = []
    for index, item in enumerate(items):
        one = cue(index, item)
        is_mark = isinstance(item, dict) and item.get("type") in ("punctuation", "punct")
        found.append(Word(one.words, one.start_s, one.end_s, one.speaker, channel, is_mark))
    return found


def joined(items: Sequence[object]) -> list[Cue]:
    """Return words in a list as utterances."""
    return join(words(items))


def scaled(items: Sequence[object]) -> list[dict[str, Any]]:
    """Return entries whose times are milliseconds with keys that say so."""
    return [
        {**item, "start": None, "end": None, "start_ms": item.get("start"), "end_ms": item.get("end")}
        for item in items
        if isinstance(item, dict)
    ]


def are_whole(items: Sequence[object]) -> bool:
    """Whether the times of all entries are whole numbers, which milliseconds are and seconds seldom."""
    found = [
        item[key]
        for item in items
        if isinstance(item, dict)
        for side in ("start", "end")
        for key, unit_s in WHERE[side]
        if item.get(key) is not None and unit_s == 1.0
    ]
    return bool(found) and all(map(is_whole, found))


def a(value: object) -> str:
    """Return what a JSON value is, for messages: `an object`, `a list`."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def named(item: Item) -> str:
    """Return the keys of an object, the first ten of them, for messages."""
    keys = [key if len(key) <= 40 else f"{key[:40]}..." for key in list(item)[:10]]
    return (", ".join(map(repr, keys)) + (", ..." if len(item) > 10 else "")) or "none"
