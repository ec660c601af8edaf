"""Reading documents for a worker: recordings decoded and cut into segments, transcripts fetched.

A document comes as parts, the last of which says how it ended. The parts of several documents follow one
another in order, whoever reads them: this thread (`read`), threads ahead of it (`read_ahead`), or Ray tasks
on any node (`remote_decoding.read_remotely`).
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar

from hilbert_ray import audio
from hilbert_ray.config import Config, Modality, parse_channels
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Utterance,
    message_of,
)
from hilbert_ray.segmentation import CountedBlocks, audio_segments, characters, expected_seconds
from hilbert_ray.storage import StorageError, file_versions
from hilbert_ray.store import Quarantined, StoredDocument
from hilbert_ray.transcript import Flaw, LoadedText, clip, load_text
from hilbert_ray.units.plan import transcript_versions, version_or_absent

SEGMENTS_AHEAD = 64
"""Audio segments that wait for the model; of 10 s at 16 kHz, they take 41 MB."""
TRANSCRIPTS_AHEAD = 16
"""Transcripts that are fetched at a time."""
T = TypeVar("T")


class ChangedError(DocumentError):
    """A file that has changed since the run was planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentEnd:
    """The end of a document. `timed`: whether segments have times in seconds.

    expected: the seconds, or characters other than white space, that the segments must cover. flaws: what its
    user should know of a recording, although it can be used.
    """

    expected: float
    timed: bool
    flaws: tuple[Flaw, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """The whole text of a document, still to be cut, which needs the encoder's tokenizer."""

    text: str | tuple[Utterance, ...]
    flaws: tuple[Flaw, ...] = ()


DocumentPart: TypeAlias = AudioSegment | Transcript | DocumentEnd | Quarantined


@dataclass(kw_only=True, slots=True, eq=False)
class DocumentProgress:
    """A document under way: its flaws so far, and how it ended. Equal to itself alone, so it can be a key.

    unit: index of the document's unit among those that are read together. entry: the document with the
    versions that its files should have. source: its source hash in the plan.
    """

    unit: int
    entry: StoredDocument
    source: str
    end: DocumentEnd | None = None
    failure: Quarantined | None = None
    flaws: tuple[Flaw, ...] = ()


DocumentWithPart: TypeAlias = tuple[DocumentProgress, DocumentPart]
"""A part and the document that it belongs to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentReader:
    """Reads one modality of documents, here or in Ray tasks. `rate_hz`: what the model of audio takes."""

    modality: Modality
    rate_hz: Hertz
    config: Config

    def parts(self, entry: StoredDocument, source: str) -> Iterator[DocumentPart]:
        """Yield the parts of one document, in order; a failure, whatever it is, is the last of them."""
        read = _read_audio if self.modality == "audio" else _read_text
        parts = read(entry, self.rate_hz, self.config)
        # Step by step, so that what the consumer of a part raises is not blamed on the document.
        while True:
            part = run_or_quarantine(entry, source, "read", partial(next, parts, None))
            if part is None:
                return
            yield part
            if isinstance(part, Quarantined):
                return


def run_or_quarantine(
    entry: StoredDocument, source: str, stage: str, action: Callable[[], T]
) -> T | Quarantined:
    """Run `action`; return its result, or a `Quarantined` record if it raises.

    It catches every exception: one document, however broken, must not end a run over thousands of others.
    """
    try:
        return action()
    except Exception as error:
        return Quarantined(
            doc_id=entry.document.doc_id,
            source=source,
            stage=stage,
            error=type(error).__name__,
            message=message_of(error, entry.document.doc_id),
        )


def read(documents: Iterable[DocumentProgress], reader: DocumentReader) -> Iterator[DocumentWithPart]:
    """Yield the parts of documents one after another, each read when it is needed."""
    for document in documents:
        for part in reader.parts(document.entry, document.source):
            yield document, part


def read_ahead(documents: Iterable[DocumentProgress], reader: DocumentReader) -> Iterator[DocumentWithPart]:
    """Yield what `read` yields, read in advance by threads; what waits in memory is bounded."""
    if reader.modality == "audio":
        yield from draw_ahead(read(documents, reader), SEGMENTS_AHEAD)
        return

    def read_whole(document: DocumentProgress) -> list[DocumentWithPart]:
        return list(read([document], reader))

    # Transcripts are small and often on a distant server: several are fetched at once.
    with ThreadPoolExecutor(TRANSCRIPTS_AHEAD) as threads:
        pending: deque[Future[list[DocumentWithPart]]] = deque()
        remaining = iter(documents)
        while True:
            for document in islice(remaining, TRANSCRIPTS_AHEAD - len(pending)):
                pending.append(threads.submit(read_whole, document))
            if not pending:
                return
            yield from pending.popleft().result()


def draw_ahead(items: Iterator[T], most: int) -> Generator[T, None, None]:
    """Yield items that a thread draws in advance, up to `most` of them."""
    # Items travel in lists of one, so that the empty list can mean the end.
    ready: queue.Queue[list[T]] = queue.Queue(most)
    is_stopped = threading.Event()

    def put(item: list[T]) -> None:
        # With a timeout, or the thread would wait forever once nobody takes items any more.
        while not is_stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return
            except queue.Full:
                continue

    def draw() -> None:
        try:
            for item in items:
                put([item])
                if is_stopped.is_set():
                    return
        finally:
            # Also after an exception, or the consumer would wait forever.
            put([])

    # A thread is enough: decoders and torch release Python's lock while they compute.
    with ThreadPoolExecutor(1) as thread:
        drawn = thread.submit(draw)
        try:
            while item := ready.get():
                yield item[0]
        finally:
            is_stopped.set()
        drawn.result()  # raises what the thread raised


def _read_audio(
    entry: StoredDocument, rate_hz: Hertz, config: Config
) -> Iterator[AudioSegment | DocumentEnd]:
    """Yield the audio segments of a document, then its end.

    Raises:
        DocumentError: when the recording or a transcript that cuts it is invalid, or changed after planning.
    """
    document = entry.document
    uri = document.audio or ""
    flaws: tuple[Flaw, ...] = ()
    # Only then: windows must not fail because of a transcript that they do not need.
    if config.segment.audio == "turns" or config.segment.roles:
        loaded = _read_transcript(entry, config)
        document = replace(document, text=loaded.text, text_file=None, diarization=None)
        # Where the text is embedded too, that reports them.
        flaws = loaded.flaws if config.encoder("text").spec == "none" else ()
    channels = document.channels or parse_channels(config.segment.channels)
    stream = audio.stream(uri, rate_hz, channels=channels)
    recording = CountedBlocks(stream)
    yield from audio_segments(document, recording, rate_hz, config.segment, channels.roles)
    # After the last byte: a file replaced while it was read would give segments of both versions.
    _check_version(entry, uri, entry.audio_version, config)
    duration_s = recording.samples / rate_hz
    expected = expected_seconds(document, config.segment, duration_s, channels.roles)
    flaws += tuple(Flaw(finding, 0) for finding in stream.findings)
    yield DocumentEnd(expected=expected, timed=True, flaws=flaws)


def _read_text(entry: StoredDocument, rate_hz: Hertz, config: Config) -> Iterator[Transcript | DocumentEnd]:
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
    yield DocumentEnd(expected=characters(selected), timed=turns[0].start is not None)


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
    return LoadedText(clipped, loaded.flaws + flaws)


def _read_transcript(entry: StoredDocument, config: Config) -> LoadedText:
    """Return the transcript, if there is one.

    Raises:
        ChangedError: when one of its files has changed since the run was planned.
    """
    document = entry.document
    loaded = load_text(document)
    if files := [path for path in (document.text_file, document.diarization) if path is not None]:
        current, _ = transcript_versions(document, file_versions(files, config.embed.content_hash))
        _check_same(entry, " or ".join(files), entry.text_version, current)
    return loaded


def _check_version(entry: StoredDocument, uri: str, planned: str | None, config: Config) -> None:
    """Check that a file is the one that its document's source hash was computed from."""
    _check_same(entry, uri, planned, version_or_absent(uri, config.embed.content_hash))


def _check_same(entry: StoredDocument, uri: str, planned: str | None, current: str | None) -> None:
    if current != planned:
        raise ChangedError(
            f"document {entry.document.doc_id!r}: {uri} was version {planned} when the run was planned and "
            f"is {current} now; files must not change during a run: rerun once nothing writes to it"
        )
