"""Transcripts as JSON: our own lists, and what recognisers of speech write, recognised by its content.

`KINDS` is the table: how a kind is recognised and what reads it; the first that fits counts. Objects that
only wrap such a transcript are opened. A file may hold several values one after the other, as JSON Lines do.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from hilbert_ray.transcript import automatic
from hilbert_ray.transcript import json_programs as programs
from hilbert_ray.transcript import json_services as services
from hilbert_ray.transcript.cue import Cue, Flaw, FormatError, Reading
from hilbert_ray.transcript.json_items import Item, a, named
from hilbert_ray.transcript.json_services import best, inner, objects

Read: TypeAlias = Callable[[Item, list[Flaw]], list[Cue]]
TEXT_KEYS = ("text", "transcript", "transcription", "full_transcript", "pred_text", "transcript_text")
"""Keys of a transcript as one string."""
WRAPPERS = (
    "response",
    "results",
    "result",
    "data",
    "output",
    "transcription",
    "transcript",
    "body",
    "payload",
)
"""Keys of objects that hold the whole transcript inside."""
MAX_DEPTH = 6
INCOMPLETE = (
    "transcripts whose utterances hold fewer words than the whole text beside them, read without the rest"
)
NOT_READ = "transcripts of one string beside lists that are not read"
_SPACE = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of JSON transcript: its name for messages, how to recognise it, and what reads it."""

    name: str
    fits: Callable[[Item], bool]
    read: Read


def _results(values: Item) -> list[dict[str, Any]]:
    return objects(values.get("results"))


def _has_list(*keys: str) -> Callable[[Item], bool]:
    return lambda values: any(isinstance(values.get(key), list) for key in keys)


KINDS: Sequence[Kind] = (
    Kind("Deepgram", lambda v: "channels" in inner(v.get("results")) or _is_deepgram(v), services.deepgram),
    Kind(
        "AWS Transcribe",
        lambda v: bool({"items", "audio_segments"} & inner(v.get("results")).keys()),
        services.aws,
    ),
    Kind("AWS call analytics", _has_list("Transcript"), services.aws_call),
    Kind("Azure", _has_list("recognizedPhrases", "combinedPhrases", "NBest"), services.azure),
    Kind("Azure", lambda v: "DisplayText" in v, services.azure),
    Kind(
        "Speechmatics",
        lambda v: any("type" in one and best(one) for one in _results(v)),
        services.speechmatics,
    ),
    Kind("IBM Watson", lambda v: any("timestamps" in best(one) for one in _results(v)), services.watson),
    Kind("Google", lambda v: any("alternatives" in one for one in _results(v)), services.google),
    Kind("Rev AI", _has_list("monologues"), services.rev),
    Kind("AssemblyAI", services.is_assembly_ai, services.assembly_ai),
    Kind("whisper.cpp", _has_list("transcription"), programs.whisper_cpp),
    Kind(
        "Whisper (also WhisperX, faster-whisper, OpenAI, NeMo, Podcasting 2.0)",
        lambda v: "segments" in v,
        programs.segments,
    ),
    Kind("transformers", _has_list("chunks"), programs.chunks),
    Kind(
        "NeMo",
        lambda v: bool({"segment", "word"} & inner(v.get("timestamp", v.get("timestep"))).keys()),
        programs.nemo,
    ),
    Kind("Vosk", _has_list("result"), programs.vosk),
    Kind(
        "Vosk",
        lambda v: any(
            "result" in one or "words" in one or "text" in one
            for one in objects(v.get("alternatives") or v.get("transcripts"))
        ),
        programs.vosk_alternatives,
    ),
    Kind("any list of utterances or words", lambda v: programs.container(v) != "", programs.listed),
)


def _is_deepgram(values: Item) -> bool:
    return "metadata" in values and "utterances" in inner(values.get("results"))


def read(text: str) -> Reading:
    """Return the cues of a JSON file, or its one string.

    Raises:
        FormatError: if it is not JSON, or of no kind that is read, naming what was found and what is read.
    """
    values = parse(text)
    if len(values) == 1 and automatic.is_automatic(values[0]):
        return automatic.read(values[0])
    flaws: list[Flaw] = []
    content = _several(values, flaws) if len(values) > 1 else _one(values[0], flaws)
    counts: dict[str, int] = {}
    for flaw in flaws:
        counts[flaw.kind] = counts.get(flaw.kind, 0) + flaw.count
    return Reading(content, tuple(Flaw(kind, count) for kind, count in counts.items()))


def parse(text: str) -> list[object]:
    """Return the JSON values of a text: one, or several one after the other.

    Raises:
        FormatError: if it is not JSON, naming the position.
    """
    decoder = json.JSONDecoder()
    values: list[object] = []
    place = _after_space(text, 0)
    if place == len(text):
        raise FormatError("is empty; write null if there is no transcript")
    try:
        while place < len(text):
            value, place = decoder.raw_decode(text, place)
            values.append(value)
            place = _after_space(text, place)
    except RecursionError:
        raise FormatError("is JSON that is nested too deeply for a transcript; export it again") from None
    except json.JSONDecodeError as error:
        raise FormatError(
            f"is not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}; export it again"
        ) from None
    except ValueError:  # a whole number of thousands of digits
        raise FormatError(
            "holds a number of thousands of digits, which is no time; export it again"
        ) from None
    return values


def _after_space(text: str, place: int) -> int:
    match = _SPACE.match(text, place)
    return place if match is None else match.end()


def _several(values: Sequence[object], flaws: list[Flaw]) -> list[Cue]:
    """Return the cues of JSON Lines: each a transcript of its own, as of a stream, or each an utterance."""
    found: list[Cue] = []
    for value in values:
        if isinstance(value, dict) and _kind(value) is not None:
            content = _one(value, flaws)
            found += [Cue(content)] if isinstance(content, str) else content
        elif not (isinstance(value, dict) and set(value) <= {"text", "partial"} and not value.get("text")):
            # Vosk ends with a result whose text is empty.
            found += programs.utterances([value], flaws)
    return found


def _one(value: object, flaws: list[Flaw]) -> str | list[Cue]:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return _from_list(value, flaws)
    if not isinstance(value, dict):
        raise FormatError(f"holds {a(value)} as JSON; {_advice()}")
    opened = _opened(value)
    kind = _kind(opened)
    if kind is None:
        return _text_only(opened, flaws)
    cues = kind.read(opened, flaws)
    _check_whole(value, opened, cues, flaws)
    return cues


def _from_list(items: list[Any], flaws: list[Flaw]) -> list[Cue]:
    """Return the cues of a list: of utterances, of transcripts, or of segments and information."""
    if len(items) == 2 and isinstance(items[0], list) and not isinstance(items[1], list):
        # faster-whisper returns (segments, info).
        return programs.utterances(items[0], flaws)
    if items and all(isinstance(item, dict) for item in items):
        if any("NBest" in item or "DisplayText" in item for item in items):
            return services.azure_list(items, flaws)
        if all(_kind(item) is not None and "text" not in item for item in items) or (
            len(items) == 1 and _kind(items[0]) is not None and not isinstance(items[0].get("words"), list)
        ):
            found: list[Cue] = []
            for item in items:
                content = _one(item, flaws)
                found += [Cue(content)] if isinstance(content, str) else content
            return found
    return programs.utterances(items, flaws)


def _kind(values: Item) -> Kind | None:
    return next((kind for kind in KINDS if kind.fits(values)), None)


def _opened(values: dict[str, Any]) -> dict[str, Any]:
    """Return the object that holds the transcript: itself, or what its wrappers hold.

    Raises:
        FormatError: if there are several transcripts.
    """
    for _ in range(MAX_DEPTH):
        if _kind(values) is not None:
            break
        wrapped = next((values[key] for key in WRAPPERS if isinstance(values.get(key), dict)), None)
        if wrapped is None and isinstance(values.get("inlineResult"), dict):
            wrapped = values["inlineResult"]
        if wrapped is None:
            break
        # Google's batches: a map from each recording's address to its result.
        inside = [one for one in wrapped.values() if isinstance(one, dict) and _is_google_file(one)]
        if len(inside) > 1:
            raise FormatError(
                f"holds the transcripts of {len(inside)} recordings; write the transcript of each "
                f"document into a "
                "file of its own"
            )
        values = inside[0] if inside else wrapped
    return values


def _is_google_file(values: Item) -> bool:
    return bool({"transcript", "inlineResult", "cloudStorageResult"} & values.keys()) and not any(
        isinstance(values.get(key), str) for key in TEXT_KEYS
    )


def _text_only(values: Item, flaws: list[Flaw]) -> str | list[Cue]:
    """Return the text of an object that holds one string, or is itself one utterance.

    Raises:
        FormatError: naming the keys that it has, and what is read.
    """
    if {"start", "start_time", "startTime", "start_ms"} & values.keys():
        return programs.utterances([values], flaws)
    for key in TEXT_KEYS:
        if isinstance(values.get(key), str):
            others = [
                name for name, one in values.items() if objects(one) and name not in ("logprobs", "usage")
            ]
            if others:
                flaws.append(Flaw(NOT_READ))
            return str(values[key])
    raise FormatError(
        f"holds a JSON object of no kind that is read, with the keys {named(values)}; {_advice()}"
    )


def _advice() -> str:
    kinds = ", ".join(dict.fromkeys(kind.name for kind in KINDS[:-1]))
    return (
        f"what is read is the output of {kinds}, a string, and lists of strings or of "
        "{text, start?, end?, role?}"
    )


def _check_whole(values: Item, opened: Item, cues: Sequence[Cue], flaws: list[Flaw]) -> None:
    """Append a flaw if the text that stands beside the utterances is longer than theirs by over 2 %."""
    whole = next(
        (one[key] for one in (opened, values) for key in TEXT_KEYS if isinstance(one.get(key), str)),
        None,
    ) or _whole_of_service(inner(opened.get("results")))
    expected, got = (sum(map(len, text.split())) for text in (whole, " ".join(cue.words for cue in cues)))
    if got < 0.98 * expected:
        flaws.append(Flaw(INCOMPLETE))


def _whole_of_service(results: Mapping[str, Any]) -> str:
    """Return the whole text of Deepgram and AWS."""
    parts = [best(channel).get("transcript") for channel in objects(results.get("channels"))]
    parts += [one.get("transcript") for one in objects(results.get("transcripts"))]
    return " ".join(part for part in parts if isinstance(part, str))
