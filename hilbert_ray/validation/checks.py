"""The check of one document: its files if they are opened, its transcript, its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from hilbert_ray import audio
from hilbert_ray.config import SegmentConfig, TaskConfig, parse_channels
from hilbert_ray.document import (
    Document,
    DocumentError,
    InvalidRow,
    Label,
    Recognition,
    Utterance,
    encode_label,
    message_of,
)
from hilbert_ray.storage import AccessError
from hilbert_ray.transcript import Flaw, LoadedText, check_text_kind, clip, load_text
from hilbert_ray.validation.listening import listen
from hilbert_ray.validation.recordings import Recording

Hearing: TypeAlias = Literal["header", "beginning", "all"]
"""How much of a recording is read: its header; its beginning is decoded too; or all of it."""


class ValidationError(DocumentError):
    """A document that can be read but contradicts itself or the settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a document holds; None if it takes a file that was not opened to know.

    recognition: of an automatic transcript that was read.
    """

    recording: Recording | None
    utterances: int | None
    words: int | None
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None


def check_document(
    row: int,
    document: Document,
    tasks: Mapping[str, TaskConfig],
    segment: SegmentConfig,
    is_opened: bool,
    hearing: Hearing = "header",
) -> Contents | InvalidRow:
    """Check a document, and the content of its files if `is_opened`; for recordings see `Hearing`.

    Raises:
        AccessError: when the place of its files cannot be used from here at all.
    """
    heard: tuple[Flaw, ...] = ()
    recording: Recording | None = None
    loaded = LoadedText(None)
    is_read = is_opened or document.text_file is None  # an inline transcript costs nothing to read
    stage = "audio"
    try:
        # Audio first: the transcript's times are checked against its length.
        if is_opened and document.audio is not None:
            recording, heard = _check_recording(document, document.audio, segment, hearing)
        stage = "text"
        check_text_kind(document)
        if is_read:
            # Unopened, a diarization cannot say who the speakers are, but the words count.
            loaded = load_text(document if is_opened else replace(document, diarization=None))
        flaws = heard + loaded.flaws
        if recording is not None:
            flaws += clip(document, loaded.utterances, recording.duration_s)[1]
        if is_read and (is_opened or document.diarization is None):
            _check_roles(document, loaded.utterances, segment.roles)
        stage = "labels"
        for name, label in document.labels.items():
            if name in tasks:
                _check_label(document, name, tasks[name], label)
    # All of them: a bug that one document brings to light must not keep the others from being checked.
    except Exception as error:
        if isinstance(error, AccessError) and error.place:
            raise  # not the document's fault
        return failed(row, document, stage, error)
    texts = [loaded.text] if isinstance(loaded.text, str) else [turn.text for turn in loaded.utterances]
    return Contents(
        recording=recording,
        utterances=len(loaded.utterances) if is_read else None,
        words=sum(len(text.split()) for text in texts) if is_read else None,
        flaws=flaws,
        recognition=loaded.recognition,
    )


def _check_recording(
    document: Document, uri: str, segment: SegmentConfig, hearing: Hearing
) -> tuple[Recording, tuple[Flaw, ...]]:
    """Return what a recording is like, and what is odd about it."""
    info = audio.probe(uri)
    recording = Recording(duration_s=info.duration_s, rate_hz=info.rate_hz, channels=info.channels)
    if hearing == "header":
        return recording, ()
    channels = document.channels or parse_channels(segment.channels)
    heard = listen(uri, channels, info.duration_s, is_whole=hearing == "all")
    recording = replace(recording, heard_s=heard.heard_s, level_db=heard.level_db, speech=heard.speech)
    return recording, tuple(Flaw(finding, 0) for finding in heard.findings)


def failed(row: int, document: Document, stage: str, error: Exception) -> InvalidRow:
    """Return the row of a document whose check raised an exception, be it one of ours or a bug."""
    return InvalidRow(
        row=row,
        doc_id=document.doc_id,
        stage=stage,
        error=type(error).__name__,
        message=message_of(error, document.doc_id),
    )


def _check_roles(document: Document, utterances: Sequence[Utterance], roles: Sequence[str]) -> None:
    if not roles or not document.has_text:
        return
    present = sorted({turn.role for turn in utterances if turn.role is not None})
    # One of the roles is enough: not every recording has all speakers, but one with none has nothing to
    # embed.
    if set(roles) & set(present):
        return
    raise ValidationError(
        f"document {document.doc_id!r} has no utterance of segment.roles = {list(roles)}; its roles are "
        f"{present or 'unknown'}: name roles that it has, or remove the document"
    )


def _check_label(document: Document, name: str, task: TaskConfig, label: Label) -> None:
    try:
        encode_label(task, label)
    except ValueError as error:
        raise ValidationError(f"document {document.doc_id!r}, task `{name}`: {error}") from None
