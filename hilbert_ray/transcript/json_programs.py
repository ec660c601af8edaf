"""JSON transcripts of programs run at home: Whisper and its relatives, transformers, NeMo, Vosk.

Each function takes the JSON object that `json_kinds` recognised, and a list to which it appends flaws.
"""

from collections.abc import Sequence
from typing import Any

from hilbert_ray.transcript import json_items
from hilbert_ray.transcript.clock import of_unknown_unit
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.json_items import Item, a

FRAMES = "transcripts with times in frames of a model, which say nothing without its frame rate, not read"
CONTAINERS = (
    *("segments", "utterances", "sentences", "paragraphs", "transcript", "transcription", "chunks", "turns"),
    *(
        "lines",
        "cues",
        "captions",
        "subtitles",
        "entries",
        "messages",
        "items",
        "dialogue",
        "dialog",
        "results",
    ),
    *("monologue", "phrases", "conversation", "turnLevelTranscription", "words", "word_segments", "data"),
)
"""Keys under which some program keeps its list of utterances; the first with one counts."""
_WORD_LISTS = ("words", "word_segments")


def utterances(items: Sequence[object], flaws: list[Flaw]) -> list[Cue]:
    """Return the cues of a list of utterances, whose unit may be unknown."""
    found: Sequence[Cue] = json_items.cues(items, flaws)
    if json_items.are_whole(items):
        found, more = of_unknown_unit(found)
        flaws.extend(more)
    return list(found)


def segments(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Whisper, WhisperX, faster-whisper, OpenAI's `verbose_json`, NeMo, Podcasting 2.0: a list `segments`.

    A segment without a speaker whose words have speakers is cut where they change.

    Raises:
        FormatError: if `segments` is no list of utterances.
    """
    items = values.get("segments")
    if not items and isinstance(values.get("segments"), (list, type(None))):
        for key in _WORD_LISTS:
            if isinstance(values.get(key), list) and values[key]:
                return json_items.joined(values[key])
    if isinstance(items, list) and not items and not str(values.get("text") or "").strip():
        return []
    if not isinstance(items, list) or not items:
        raise FormatError(
            f"has `segments` that are {a(items) if not isinstance(items, list) else 'empty'}; they must be a "
            "list of utterances: transcribe again, or write the words alone as a .txt file"
        )
    if isinstance(items[0], str):
        raise FormatError("has `segments` that are strings; write [STRING, ...] alone, without `segments`")
    found: list[Cue] = []
    for item, one in zip(items, utterances(items, flaws), strict=True):
        words = item.get("words") if isinstance(item, dict) else None
        if one.speaker is None and isinstance(words, list) and _have_speakers(words):
            found += json_items.joined(words)
        else:
            found.append(one)
    return found


def _have_speakers(words: Sequence[object]) -> bool:
    return any(isinstance(word, dict) and json_items.speaker(word) is not None for word in words)


def whisper_cpp(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """whisper.cpp: a list `transcription`, offsets in milliseconds; single words or tokens are joined."""
    return _lines_or_words(values["transcription"], flaws)


def chunks(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Transformers: `chunks` with `timestamp: [start, end]`; `speakers` the same with who speaks."""
    items = values.get("speakers") or values["chunks"]
    if not isinstance(items, list):
        raise FormatError(f"has `chunks` that are {a(items)}; they must be a list of {{timestamp, text}}")
    return _lines_or_words(items, flaws)


def _lines_or_words(items: Sequence[object], flaws: list[Flaw]) -> list[Cue]:
    found = json_items.cues(items, flaws)
    # Timestamps are those of words: no chunk of three or more holds two words.
    if len(found) >= 3 and all(len(one.words.split()) <= 1 for one in found):
        return json_items.joined(items)
    return found


def nemo(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """NeMo's hypotheses: `timestamp` (once `timestep`) with lists `segment` and `word`."""
    times: Any = values.get("timestamp", values.get("timestep"))
    for key in ("segment", "word"):
        items = times.get(key)
        if isinstance(items, list) and items:
            found = json_items.cues(items, flaws)
            if all(one.start_s is None for one in found):
                flaws.append(Flaw(FRAMES))
            return found if key == "segment" else json_items.joined(items)
    raise FormatError("has `timestamp` without `segment` or `word`; ask NeMo for timestamps of segments")


def vosk(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Vosk: a list `result` of words."""
    del flaws
    return json_items.joined(values["result"])


def vosk_alternatives(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Vosk, Coqui and DeepSpeech with alternatives: the first, which is the likeliest, is read."""
    del flaws
    best = next(one for key in ("alternatives", "transcripts") for one in values.get(key) or () if one)
    words = best.get("result") or best.get("words")
    if not isinstance(words, list):
        return [json_items.cue(0, best)]
    return json_items.joined(words)


def listed(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Any program: a list of entries with words, under one of the names of `CONTAINERS`."""
    key = container(values)
    items = values[key]
    if key not in _WORD_LISTS:
        return utterances(items, flaws)
    # ElevenLabs lists the spaces between words, too.
    items = [item for item in items if not (isinstance(item, dict) and item.get("type") == "spacing")]
    if json_items.are_whole(items):
        _, more = of_unknown_unit(json_items.cues(items, []))
        flaws.extend(more)
        items = json_items.scaled(items) if more else items
    return json_items.joined(items)


def container(values: Item) -> str:
    """Return the key of a list of entries with words; empty if there is none."""
    for key in CONTAINERS:
        items = values.get(key)
        if isinstance(items, list) and items and isinstance(items[0], dict) and _has_words(items[0]):
            return key
    return ""


def _has_words(item: Item) -> bool:
    return json_items.text_of(item) is not None
