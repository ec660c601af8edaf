"""Reading documents for an encoder: recordings decoded and cut into segments, transcripts fetched."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeAlias

from hilbert_ray import audio
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Recognition,
    Samples,
    Seconds,
    Utterance,
)
from hilbert_ray.encoders import Encoder
from hilbert_ray.segmentation import audio_segments, characters, expected_seconds, heard_together
from hilbert_ray.storage import StorageError, file_versions
from hilbert_ray.store import StoredDocument
from hilbert_ray.transcript import Flaw, LoadedText, clip, load_text
from hilbert_ray.units import DocumentEnd, DocumentReader, Recording, check_same, transcript_versions

PARTS_AHEAD = 64
"""Parts of recordings that wait for the encoder: segments of 10 s at 16 kHz take 41 MB, fills of 30 s 123."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """The whole text of a document, still to be cut, which needs the encoder's tokenizer."""

    text: str | tuple[Utterance, ...]
    flaws: tuple[Flaw, ...] = ()


Piece: TypeAlias = tuple[AudioSegment, ...] | Transcript
"""A tuple holds the audio segments that are heard together, one alone where the encoder hears each alone."""


@dataclass(frozen=True, kw_only=True)
class PieceReader(DocumentReader[Piece]):
    """Reads one modality of documents. `rate_hz` and `fill`: those of the encoder."""

    modality: Modality
    rate_hz: Hertz
    fill: Samples
    config: Config

    @classmethod
    def of(cls, modality: Modality, encoder: Encoder, config: Config) -> "PieceReader":
        """Return what reads for an encoder."""
        return cls(modality=modality, rate_hz=encoder.rate_hz, fill=encoder.fill, config=config)

    @property
    def ahead(self) -> int:
        """How many parts may wait."""
        return PARTS_AHEAD if self.modality == "audio" else 0

    def read(self, entry: StoredDocument) -> Iterator[Piece | DocumentEnd]:
        """Yield the audio segments of a document, or its transcript, then its end."""
        if self.modality == "audio":
            return _read_audio(entry, self.rate_hz, self.fill, self.config)
        return _read_text(entry, self.config)

    def seconds(self, part: Piece) -> Seconds:
        """Return how long the segments of a part are."""
        return sum(one.end - one.start for one in part) if isinstance(part, tuple) else 0.0


def _read_audio(
    entry: StoredDocument, rate_hz: Hertz, fill: Samples, config: Config
) -> Iterator[tuple[AudioSegment, ...] | DocumentEnd]:
    """Yield the audio segments of a document as they are heard, then its end.

    Raises:
        DocumentError: when the recording or a transcript that cuts it is invalid, or changed after planning.
    """
    document = entry.document
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None
    # Only then: windows must not fail because of a transcript that they do not need.
    if config.segment.audio == "turns" or config.segment.roles:
        loaded = _read_transcript(entry, config)
        recognition = loaded.recognition
        document = replace(document, text=loaded.text, text_file=None, diarization=None)
        # Where the text is embedded too, that reports them.
        flaws = loaded.flaws if config.encoder("text").spec == "none" else ()
    recording = Recording(entry, rate_hz, config)
    speakers = recording.speakers
    segments = audio_segments(document, recording.blocks, rate_hz, config.segment, speakers)
    yield from heard_together(segments, fill, rate_hz)
    duration_s, findings = recording.finish()
    expected = expected_seconds(document, config.segment, duration_s, speakers)
    yield DocumentEnd(expected=expected, timed=True, flaws=flaws + findings, recognition=recognition)


def _read_text(entry: StoredDocument, config: Config) -> Iterator[Transcript | DocumentEnd]:
    """Yield the transcript of a document, then its end.

    Raises:
        DocumentError: when the transcript is invalid, or changed after planning.
    """
    loaded = _within_recording(entry.document, _read_transcript(entry, config))
    text = loaded.text or ""
    yield Transcript(text=text, flaws=loaded.flaws)
    turns = (Utterance(text=text),) if isinstance(text, str) else text
    # A plain string has no roles to select by, so all of it counts.
    roles = () if isinstance(text, str) else config.segment.roles
    selected = [turn.text for turn in turns if not roles or turn.role in roles]
    timed = turns[0].start is not None
    yield DocumentEnd(expected=characters(selected), timed=timed, recognition=loaded.recognition)


def _within_recording(document: Document, loaded: LoadedText) -> LoadedText:
    """Return a transcript clipped to the length that its recording's header states.

    Raises:
        TimesError: when it is no transcript of this recording by its times.
    """
    turns = loaded.utterances
    if not turns or turns[0].start is None or document.audio is None:
        return loaded
    try:
        duration_s = audio.probe(document.audio).duration_s
    except (DocumentError, OSError, StorageError):  # embedding the audio reports this
        return loaded
    clipped, flaws = clip(document, turns, duration_s)
    return replace(loaded, text=clipped, flaws=loaded.flaws + flaws)


def _read_transcript(entry: StoredDocument, config: Config) -> LoadedText:
    """Return the transcript, if there is one.

    Raises:
        ChangedError: when one of its files has changed since the run was planned.
    """
    document = entry.document
    loaded = load_text(document)
    if files := [path for path in (document.text_file, document.diarization) if path is not None]:
        current, _ = transcript_versions(document, file_versions(files, config.embed.content_hash))
        check_same(entry, " or ".join(files), entry.text_version, current)
    return loaded
