"""The files that `hilbert-ray transcribe` writes: automatic transcripts, which say what recognised them.

    document, duration_s   the document's id, and the length of its recording in seconds
    language               code of the language that was given or detected; null where the model has only one
    asr                    the recogniser: `name`, `fingerprint`, and how else it describes itself
    unwritten              [start, end] of each stretch of speech of which it wrote nothing
    utterances             each {start, end, role, text, confidence, doubts, words}
    words                  each {start, end, text, confidence}

Times are seconds of the recording, to the millisecond. `unwritten`, and what an utterance lacks (role,
confidence, doubts, words), are left out where there is none. There is no checksum: these files may be
corrected by hand.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from hilbert_ray.document import Recognition, Seconds
from hilbert_ray.transcript import json_items
from hilbert_ray.transcript.cue import Flaw, FormatError, Reading

SCHEMA = 1
DOUBTFUL = "utterances that the recogniser marks as doubtful"
UNWRITTEN = "stretches of speech of which the recogniser wrote nothing"


@dataclass(frozen=True, kw_only=True, slots=True)
class AutomaticTranscript:
    """What was recognised in a document; no utterances where nobody speaks.

    asr: how the recogniser describes itself, with `name` and `fingerprint`. utterances: with the
    members that are listed above; those that are None or empty are left out of the file.
    """

    document: str
    language: str | None
    asr: Mapping[str, Any]
    duration_s: Seconds
    utterances: Sequence[Mapping[str, Any]]
    unwritten: Sequence[tuple[Seconds, Seconds]] = ()

    def to_bytes(self) -> bytes:
        """Return the transcript as the bytes of its file: UTF-8, one utterance a line, always the same."""
        facts: dict[str, Any] = {
            "schema": SCHEMA,
            "document": self.document,
            "language": self.language,
            "asr": dict(self.asr),
            "duration_s": round(self.duration_s, 3),
        }
        if self.unwritten:
            facts["unwritten"] = [[round(time, 3) for time in times] for times in self.unwritten]
        lines = [_json(_timed(one)) for one in self.utterances]
        listed = "\n  " + ",\n  ".join(lines) + "\n" if lines else ""
        head = "".join(f'"{name}": {_json(value)},\n' for name, value in facts.items())
        return f'{{{head}"utterances": [{listed}]}}\n'.encode()


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _timed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return an utterance or a word with its members in the order of the file, without the empty ones."""
    members = {
        "start": round(values["start"], 3),
        "end": round(values["end"], 3),
        "role": values.get("role"),
        "text": values["text"],
        "confidence": None if values.get("confidence") is None else round(values["confidence"], 4),
        "doubts": list(values.get("doubts") or ()),
        "words": [_timed(word) for word in values.get("words") or ()],
    }
    return {name: value for name, value in members.items() if value is not None and value != []}


def is_automatic(value: object) -> TypeGuard[Mapping[str, Any]]:
    """Whether a JSON value is such a transcript: it has a schema, a recogniser and utterances."""
    return (
        isinstance(value, dict)
        and isinstance(value.get("asr"), dict)
        and {"schema", "utterances"} <= set(value)
    )


def read(values: Mapping[str, Any]) -> Reading:
    """Return the cues of an automatic transcript, and what recognised them.

    Raises:
        FormatError: when it is of a later version, damaged, or nobody speaks in it.
    """
    schema, asr, items = values.get("schema"), values["asr"], values["utterances"]
    if schema != SCHEMA:
        raise FormatError(
            f"is an automatic transcript of schema {schema!r}, and this version reads {SCHEMA}; update "
            "hilbert-ray, or transcribe again"
        )
    names = {key: asr.get(key) for key in ("name", "fingerprint")}
    if not all(isinstance(name, str) and name for name in names.values()) or not isinstance(items, list):
        raise FormatError(
            "is an automatic transcript whose `asr` must have `name` and `fingerprint`, and whose "
            "`utterances` must be a list; transcribe again"
        )
    if not items:
        raise FormatError(
            f"is an automatic transcript without utterances: {names['name']} found no speech; write "
            "null as text_file"
        )
    flaws: list[Flaw] = []
    cues = json_items.cues(items, flaws)
    doubtful = sum(isinstance(item, dict) and bool(item.get("doubts")) for item in items)
    if doubtful:
        flaws.append(Flaw(DOUBTFUL, doubtful))
    if isinstance(unwritten := values.get("unwritten"), list) and unwritten:
        flaws.append(Flaw(UNWRITTEN, len(unwritten)))
    recognition = Recognition(names["name"], names["fingerprint"], _confidence(items))
    return Reading(cues, tuple(flaws), recognition)


def _confidence(items: Sequence[Any]) -> float | None:
    """Return the mean confidence of the words, each as sure as its utterance; None where none has any."""
    rated = [
        (float(item["confidence"]), len(words.split()))
        for item in items
        if isinstance(item, dict)
        and isinstance(item.get("confidence"), (int, float))
        and 0 <= item["confidence"] <= 1
        and (words := json_items.text_of(item) or "").split()
    ]
    total = sum(count for _, count in rated)
    return round(sum(confidence * count for confidence, count in rated) / total, 4) if total else None
