"""JSON transcripts of services: Deepgram, AssemblyAI, AWS, Google, Azure, IBM, Rev, Speechmatics.

Each function takes the JSON object that `json_kinds` recognised, and a list to which it appends flaws. Where
a service separates channels, a channel is a speaker; where it also tells speakers apart within channels, the
speaker is `channel-speaker`, as in `0-1`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from hilbert_ray.document import Seconds
from hilbert_ray.transcript import json_items
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError
from hilbert_ray.transcript.json_items import Item
from hilbert_ray.transcript.words import Word, by_start, join

TICK_S = 1e-7
"""The unit of Azure's times."""
FAILED = "stretches of a recording that a service says it could not transcribe"
_MILLISECONDS = ("audio_url", "audio_duration", "acoustic_model", "speech_model", "webhook_status_code")


def objects(value: object) -> list[dict[str, Any]]:
    """Return the objects of a list; none if it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def items_of(value: object) -> list[Any]:
    """Return a list; an empty one for anything else."""
    return value if isinstance(value, list) else []


def inner(value: object) -> dict[str, Any]:
    """Return an object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def best(item: Item) -> dict[str, Any]:
    """Return the first alternative of a result, which is the likeliest."""
    return next(iter(objects(item.get("alternatives"))), {})


def deepgram(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Deepgram: `results` with `utterances`, or `channels` with paragraphs, words or a transcript."""
    results = values["results"]
    channels = objects(results.get("channels"))
    is_many = len(channels) > 1
    found = []
    if utterances := objects(results.get("utterances")):
        numbers = {str(item.get("channel")) for item in utterances}
        is_many = is_many or len(numbers) > 1
        found = json_items.cues(utterances, flaws)
        if is_many:
            found = [
                _in_channel(one, item.get("channel")) for one, item in zip(found, utterances, strict=True)
            ]
        return by_start(found)
    for number, channel in enumerate(channels):
        cues = _deepgram_channel(best(channel), flaws)
        found += [_in_channel(one, number) for one in cues] if is_many else cues
    return by_start(found)


def _deepgram_channel(alternative: Item, flaws: list[Flaw]) -> list[Cue]:
    cues: list[Cue] = []
    for paragraph in objects(inner(alternative.get("paragraphs")).get("paragraphs")):
        said_by = json_items.speaker(paragraph)
        sentences = json_items.cues(objects(paragraph.get("sentences")), flaws)
        cues += [replace(one, speaker=said_by) for one in sentences]
    if not cues:
        cues = json_items.joined(objects(alternative.get("words")))
    if not cues and str(alternative.get("transcript") or "").strip():
        cues = [Cue(str(alternative["transcript"]))]
    return cues


def _in_channel(one: Cue, channel: object) -> Cue:
    if channel is None:
        return one
    if isinstance(channel, list):  # streams of Deepgram: [number, count]
        channel = channel[0] if channel else 0
    return replace(one, speaker=str(channel) if one.speaker is None else f"{channel}-{one.speaker}")


def assembly_ai(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """AssemblyAI: `utterances`, `sentences`, `paragraphs` or `words`, in milliseconds."""
    for key in ("utterances", "sentences", "paragraphs"):
        if items := objects(values.get(key)):
            return by_start(json_items.cues(json_items.scaled(items), flaws))
    if items := objects(values.get("words")):
        return json_items.joined(json_items.scaled(items))
    text = str(values.get("text") or "").strip()
    return [Cue(text)] if text else []


def is_assembly_ai(values: Item) -> bool:
    """Whether an object has keys that only AssemblyAI writes, whose times are in milliseconds."""
    return any(key in values for key in _MILLISECONDS)


def aws(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """AWS Transcribe: `audio_segments` where they name speakers as far as `items` do, else `items`."""
    results = values["results"]
    labels = inner(results.get("speaker_labels"))
    speakers = {
        str(item.get("start_time")): item.get("speaker_label")
        for segment in objects(labels.get("segments"))
        for item in objects(segment.get("items"))
    }
    segments = objects(results.get("audio_segments"))
    is_separated = bool(speakers or results.get("channel_labels"))
    if segments and (not is_separated or all(json_items.speaker(item) is not None for item in segments)):
        return by_start(json_items.cues(segments, flaws))
    items = objects(results.get("items"))
    channels = objects(inner(results.get("channel_labels")).get("channels"))
    if channels and not any("channel_label" in item for item in items):
        items = [
            {"channel_label": channel.get("channel_label"), **item}
            for channel in channels
            for item in objects(channel.get("items"))
        ]
    is_many = len({item.get("channel_label") for item in items} - {None}) > 1
    return join(_aws_word(index, item, speakers, is_many) for index, item in enumerate(items))


def _aws_word(index: int, item: Item, speakers: Mapping[str, Any], is_many: bool) -> Word:
    start, end = json_items.times(index, item)
    label = item.get("speaker_label") or speakers.get(str(item.get("start_time")))
    channel = item.get("channel_label")
    said_by = None if label is None else str(label)
    if said_by is not None and is_many and channel is not None:
        said_by = f"{channel}-{said_by}"
    return Word(
        str(best(item).get("content") or ""),
        start,
        end,
        said_by,
        str(channel) if is_many and channel is not None else None,
        item.get("type") == "punctuation",
    )


def aws_call(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """AWS call analytics: a list `Transcript` with a participant's role, and offsets in milliseconds."""
    return by_start(json_items.cues(objects(values["Transcript"]), flaws))


def google(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Google Speech v1 and v2: `results` with alternatives, whose words may have times and speakers.

    With speakers, v1 repeats all words of the recording, with their speakers, in the last result: only that
    is read then. A result without words begins where the one before ends.
    """
    del flaws
    results = objects(values["results"])
    last = objects(best(results[-1]).get("words")) if results else []
    before = [word for result in results[:-1] for word in objects(best(result).get("words"))]
    if last and any(json_items.speaker(word) for word in last) and len(last) >= len(before):
        starts = [_snake(word).get("start_time") for word in (*before[:1], *last[:1])]
        if len(results) > 1 and len(starts) == 2 and _second(starts[1]) <= _second(starts[0]):
            return join(json_items.words([_with_times(word) for word in last]))
    channels = {str(_snake(result).get("channel_tag") or 0) for result in results}
    found: list[Cue] = []
    latest: dict[str, Seconds] = {}
    for index, result in enumerate(results):
        channel = str(_snake(result).get("channel_tag") or 0)
        cues = _google_result(index, result, latest.get(channel, 0.0))
        if cues and cues[-1].end_s is not None:
            latest[channel] = cues[-1].end_s
        found += [_in_channel(one, channel) for one in cues] if len(channels) > 1 else cues
    return by_start(found)


def _google_result(index: int, result: Item, begin: Seconds) -> list[Cue]:
    alternative = best(result)
    words = [_with_times(word) for word in objects(alternative.get("words"))]
    if any(json_items.speaker(word) not in (None, "0") for word in words):
        return join(json_items.words(words))
    text = str(alternative.get("transcript") or "").strip()
    if not text:
        return join(json_items.words([{**word, "speakerTag": None} for word in words]))
    first, last = (
        (json_items.times(index, word) for word in (words[0], words[-1])) if words else ((None,) * 2,) * 2
    )
    named = _snake(result)
    until = named.get("result_end_time") or named.get("result_end_offset")
    end = last[1] if last[1] is not None else json_items.time(index, "resultEndTime", until, 1.0)
    start = first[0] if first[0] is not None else (begin if end is not None else None)
    return [Cue(text, start, end)]


def _with_times(word: Item) -> dict[str, Any]:
    """Return a word whose start is 0 where it is missing: protocol buffers leave out what is zero."""
    named = _snake(word)
    start = named.get("start_time", named.get("start_offset"))
    end = named.get("end_time", named.get("end_offset"))
    rest = {key: value for key, value in word.items() if key not in ("startOffset", "endOffset")}
    return {**rest, "start": 0.0 if start is None and end is not None else start, "end": end}


def _second(value: object) -> Seconds:
    return json_items.time(0, "startTime", value, 1.0) or 0.0


def _snake(item: Item) -> dict[str, Any]:
    """Return an object with keys as Google's libraries for Python write them: `startTime` as start_time."""
    return {
        "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in key): value
        for key, value in item.items()
    }


def azure(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Azure: `recognizedPhrases` (batch, ticks), `phrases` (fast, milliseconds), or one result of its SDK."""
    phrases = objects(values.get("recognizedPhrases") or values.get("phrases"))
    return _azure(phrases or [dict(values)], flaws, 0.001 if "phrases" in values else TICK_S)


def azure_list(items: Sequence[Item], flaws: list[Flaw]) -> list[Cue]:
    """Azure's SDK: a list of results, in ticks."""
    return _azure(items, flaws, TICK_S)


def _azure(phrases: Sequence[Item], flaws: list[Flaw], unit_s: Seconds) -> list[Cue]:
    named = [{key[:1].lower() + key[1:]: value for key, value in phrase.items()} for phrase in phrases]
    is_many = len({str(item.get("channel")) for item in named}) > 1
    cues = []
    failed = 0
    for index, item in enumerate(named):
        forms = next(iter(objects(item.get("nBest") or item.get("nbest"))), item)
        forms = {key[:1].lower() + key[1:]: value for key, value in forms.items()}
        text = next(
            (forms[key] for key in ("display", "displayText", "text", "lexical") if forms.get(key)), ""
        )
        failed += item.get("recognitionStatus", "Success") not in (
            "Success",
            0,
            "NoMatch",
            "InitialSilenceTimeout",
        )
        if not isinstance(text, str) or not text:
            continue
        start, length = (_azure_time(index, item, name, unit_s) for name in ("offset", "duration"))
        end = None if start is None or length is None else start + length
        one = Cue(text, start, end, json_items.speaker(item))
        cues.append(_in_channel(one, item.get("channel")) if is_many else one)
    if failed:
        flaws.append(Flaw(FAILED, failed))
    return by_start(cues)


def _azure_time(index: int, item: Item, name: str, unit_s: Seconds) -> Seconds | None:
    units = (
        (f"{name}InTicks", TICK_S),
        (f"{name}Milliseconds", 0.001),
        (f"{name}InMs", 0.001),
        (name, unit_s),
    )
    key, unit_s = next((one for one in units if item.get(one[0]) is not None), ("", 1.0))
    return json_items.time(index, key, item.get(key), unit_s)


def watson(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """IBM Watson: `results` whose alternatives have `timestamps` of words, with `speaker_labels` beside."""
    del flaws
    speakers = {
        str(one.get("from")): json_items.speaker(one) for one in objects(values.get("speaker_labels"))
    }
    cues: list[Cue] = []
    for index, result in enumerate(objects(values["results"])):
        entries = [
            one for one in items_of(best(result).get("timestamps")) if isinstance(one, list) and len(one) == 3
        ]
        words = [
            Word(
                str(text),
                json_items.time(index, "timestamps", start, 1.0),
                json_items.time(index, "timestamps", end, 1.0),
                speakers.get(str(start)),
            )
            for text, start, end in entries
        ]
        cues += join(words) if words else [Cue(str(best(result).get("transcript") or ""))]
    return cues


def speechmatics(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Speechmatics: `results` of words and marks, whose alternatives name speakers; `channel` beside."""
    del flaws
    items = objects(values["results"])
    is_many = len({item.get("channel") for item in items}) > 1
    words = []
    for index, item in enumerate(items):
        start, end = json_items.times(index, item)
        said_by = json_items.speaker(best(item))
        channel = item.get("channel")
        if is_many and channel is not None and said_by not in (None, "UU"):
            said_by = f"{channel}-{said_by}"
        words.append(
            Word(
                str(best(item).get("content") or ""),
                start,
                end,
                None if said_by == "UU" else said_by,  # UU: unknown
                str(channel) if is_many and channel is not None else None,
                item.get("type") == "punctuation" and item.get("attaches_to", "previous") == "previous",
            )
        )
    return join(words)


def rev(values: Item, flaws: list[Flaw]) -> list[Cue]:
    """Rev AI: `monologues` of a speaker, whose elements are words with times and marks with their spaces."""
    del flaws
    cues: list[Cue] = []
    for index, monologue in enumerate(objects(values["monologues"])):
        elements = [item for item in objects(monologue.get("elements")) if isinstance(item.get("value"), str)]
        if not elements:
            raise FormatError(f"has a monologue {index} without elements that have a `value`")
        spans = [json_items.times(index, item) for item in elements]
        starts = [start for start, _ in spans if start is not None]
        ends = [end for _, end in spans if end is not None]
        text = "".join(item["value"] for item in elements).strip()
        cues.append(
            Cue(
                text, starts[0] if starts else None, ends[-1] if ends else None, json_items.speaker(monologue)
            )
        )
    return cues
