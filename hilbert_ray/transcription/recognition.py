"""From windows of speech to rows of transcripts: windows recognised together over documents.

A document that fails, at whatever stage, is quarantined with its reason, and the others continue.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from hilbert_ray.asr import DocumentSpeech, Recognizer, Spoken, Window, document_speech, recognize, windows
from hilbert_ray.config import Config
from hilbert_ray.document import DocumentError, Hertz, Seconds
from hilbert_ray.store import Quarantined, StoredDocument, TranscriptRow
from hilbert_ray.transcript import DOUBTFUL, UNWRITTEN, AutomaticTranscript, Flaw
from hilbert_ray.units import (
    DocumentEnd,
    DocumentProgress,
    DocumentReader,
    DocumentWithPart,
    Recording,
    run_or_quarantine,
)

BATCH_S = 480.0
"""Seconds of windows that the recogniser is given together, to sort by length: at 16 kHz 31 MB."""
WINDOWS_AHEAD = 8
"""Windows that wait meanwhile; of 30 s they take 15 MB. With those of a batch, less than ten minutes."""


class TranscriptionError(DocumentError):
    """Utterances that cannot be of their recording."""


@dataclass(frozen=True, kw_only=True)
class SpeechReader(DocumentReader[Window]):
    """Reads the windows of speech of recordings. `longest_s`: of what the recogniser takes, in seconds."""

    rate_hz: Hertz
    longest_s: Seconds
    config: Config

    @property
    def ahead(self) -> int:
        """How many windows may wait."""
        return WINDOWS_AHEAD

    def read(self, entry: StoredDocument) -> Iterator[Window | DocumentEnd]:
        """Yield the windows of speech of a document, then its end."""
        recording = Recording(entry, self.rate_hz, self.config)
        yield from windows(recording.blocks, self.longest_s, recording.speakers)
        duration_s, flaws = recording.finish()
        yield DocumentEnd(expected=duration_s, timed=True, flaws=flaws)

    def seconds(self, part: Window) -> Seconds:
        """Return how long a window is."""
        return len(part.samples) / self.rate_hz


def transcribe_parts(
    documents: Sequence[DocumentProgress],
    parts: Iterator[DocumentWithPart[Window]],
    recognizer: Recognizer,
    language: str,
) -> tuple[list[TranscriptRow], list[Quarantined]]:
    """Recognise the windows of documents; return the transcripts of those that succeeded, and other reasons.

    A transcript depends on its document alone, so it is the same bytes in every run. What a failed document
    gave before it failed is discarded.

    Args:
        documents: all of a unit.
        parts: their windows and ends in order.
        recognizer: what recognises them.
        language: as in the settings, a code or `auto`.
    """
    speech = {document: document_speech(language) for document in documents}
    waiting_s = 0.0
    for document, part in parts:
        if isinstance(part, Quarantined):
            document.failure = part
            speech[document].waiting.clear()
        elif isinstance(part, DocumentEnd):
            document.end = part
            document.flaws += part.flaws
            speech[document].is_complete = True
        else:
            speech[document].waiting.append(part)
            waiting_s += len(part.samples) / recognizer.rate_hz
            if waiting_s >= BATCH_S:
                _recognize(speech, recognizer)
                waiting_s = 0.0
    _recognize(speech, recognizer)
    rows: list[TranscriptRow] = []
    for document, spoken in speech.items():
        if document.failure is None:
            action = partial(_row, document, spoken, recognizer)
            row = run_or_quarantine(document.entry, document.source, "check", action)
            if isinstance(row, Quarantined):
                document.failure = row
            else:
                rows.append(row)
    return rows, [document.failure for document in documents if document.failure is not None]


def _recognize(speech: Mapping[DocumentProgress, DocumentSpeech], recognizer: Recognizer) -> None:
    """Recognise what waits.

    If that fails, the documents are tried one by one, and those that fail alone are quarantined.
    """
    valid = {document: one for document, one in speech.items() if document.failure is None and one.waiting}
    if not valid:
        return
    first = next(iter(valid))
    action = partial(recognize, list(valid.values()), recognizer)
    failure = run_or_quarantine(first.entry, first.source, "recognize", action)
    if not isinstance(failure, Quarantined):
        return
    if len(valid) == 1:
        first.failure = failure
        return
    for document, one in valid.items():
        _recognize({document: one}, recognizer)


def _row(document: DocumentProgress, speech: DocumentSpeech, recognizer: Recognizer) -> TranscriptRow:
    """Return the row of a document all of whose windows are recognised.

    Raises:
        TranscriptionError: when that is not so, or an utterance is not of this recording by its times.
    """
    doc_id, end = document.entry.document.doc_id, document.end
    if end is None or speech.waiting:
        raise TranscriptionError(
            f"document {doc_id!r}: {len(speech.waiting)} windows were not recognised; please report this "
            "with the document"
        )
    transcription = speech.transcription()
    utterances = [_checked(doc_id, spoken, end.expected) for spoken in transcription.utterances]
    if doubtful := sum(bool(spoken.doubts) for spoken in transcription.utterances):
        document.flaws += (Flaw(DOUBTFUL, doubtful),)
    if transcription.unwritten:
        document.flaws += (Flaw(UNWRITTEN, len(transcription.unwritten)),)
    transcript = AutomaticTranscript(
        document=doc_id,
        language=transcription.language,
        asr=described(recognizer),
        duration_s=end.expected,
        utterances=utterances,
        unwritten=transcription.unwritten,
    )
    return TranscriptRow(
        doc_id=doc_id,
        source=document.source,
        transcript=transcript.to_bytes(),
        utterances=len(utterances),
        seconds=end.expected,
    )


def described(recognizer: Recognizer) -> dict[str, Any]:
    """Return what a transcript says of its recogniser."""
    return {**recognizer.describe(), "name": recognizer.name, "fingerprint": recognizer.fingerprint}


def members_of(spoken: Spoken) -> dict[str, Any]:
    """Return an utterance as a transcript's file holds it."""
    return asdict(spoken)


def _checked(doc_id: str, spoken: Spoken, duration_s: Seconds) -> dict[str, Any]:
    """Return an utterance as a transcript's file holds it, within its recording.

    Raises:
        TranscriptionError: when it is not of this recording by its times.
    """
    times = (spoken.start, spoken.end, *(time for word in spoken.words for time in (word.start, word.end)))
    # A recogniser may round the end of the last window up.
    if not all(math.isfinite(time) and 0 <= time <= duration_s + 1 for time in times) or (
        spoken.start > spoken.end
    ):
        raise TranscriptionError(
            f"document {doc_id!r}: an utterance was recognised from {spoken.start} to {spoken.end} s in a "
            f"recording of {duration_s:.3f} s; please report this with the recogniser"
        )
    members = members_of(spoken)
    for one in (members, *members["words"]):
        one |= {"start": min(one["start"], duration_s), "end": min(one["end"], duration_s)}
    return members
