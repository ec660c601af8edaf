"""The check of one document: its files if they are opened, its transcript, its labels."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hilbert_ray import audio
from hilbert_ray.config import SegmentConfig, TaskConfig, parse_channels
from hilbert_ray.document import (
    Document,
    DocumentError,
    InvalidRow,
    Label,
    Seconds,
    Utterance,
    encode_label,
    message_of,
)
from hilbert_ray.transcript import Flaw, LoadedText, check_text_kind, clip, load_text


class ValidationError(DocumentError):
    """A document that can be read but contradicts itself or the settings."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Contents:
    """What a document holds; None if it takes a file that was not opened to know."""

    duration_s: Seconds | None
    utterances: int | None
    words: int | None
    flaws: tuple[Flaw, ...] = ()


def check_document(
    row: int,
    document: Document,
    tasks: Mapping[str, TaskConfig],
    segment: SegmentConfig,
    is_opened: bool,
    is_heard: bool = False,
) -> Contents | InvalidRow:
    """Check a document, including the content of its files if `is_opened`.

    If `is_heard`, the beginning of its recording is decoded too.
    """
    heard: tuple[Flaw, ...] = ()
    duration: Seconds | None = None
    loaded = LoadedText(None)
    is_read = is_opened or document.text_file is None  # an inline transcript costs nothing to read
    stage = "audio"
    try:
        # Audio first: the transcript's times are checked against its length.
        if is_opened and document.audio is not None:
            duration = audio.probe(document.audio).duration_s
            if is_heard:
                channels = document.channels or parse_channels(segment.channels)
                heard = tuple(Flaw(found, 0) for found in audio.listen(document.audio, channels=channels))
        stage = "text"
        check_text_kind(document)
        if is_read:
            loaded = load_text(document)
        flaws = heard + loaded.flaws
        if duration is not None:
            flaws += clip(document, loaded.utterances, duration)[1]
        if is_read:
            _check_roles(document, loaded.utterances, segment.roles)
        stage = "labels"
        for name, label in document.labels.items():
            if name in tasks:
                _check_label(document, name, tasks[name], label)
    # All of them: a bug that one document brings to light must not keep the others from being checked.
    except Exception as error:
        return failed(row, document, stage, error)
    texts = [loaded.text] if isinstance(loaded.text, str) else [turn.text for turn in loaded.utterances]
    return Contents(
        duration_s=duration,
        utterances=len(loaded.utterances) if is_read else None,
        words=sum(len(text.split()) for text in texts) if is_read else None,
        flaws=flaws,
    )


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
