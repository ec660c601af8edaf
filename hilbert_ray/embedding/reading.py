"""Reading documents for the encoder: recordings decoded and cut into segments, transcripts fetched.

A document comes as parts, the last of which says how it ended. The parts of several documents follow one
another in order, whoever reads them: this thread (`read`), threads ahead of it (`read_ahead`), or Ray tasks
on any node (`elsewhere.read_elsewhere`).
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np

from hilbert_ray import audio
from hilbert_ray.config import Config, Modality
from hilbert_ray.document import (
    AudioSegment,
    Document,
    DocumentError,
    Hertz,
    Seconds,
    Utterance,
    check_times,
    load_text,
)
from hilbert_ray.embedding.plan import version_or_absent
from hilbert_ray.segmentation import audio_segments, characters, expected_seconds
from hilbert_ray.store import Quarantined, StoredDocument

SEGMENTS_AHEAD = 64
TRANSCRIPTS_AHEAD = 16
T = TypeVar("T")


class ChangedError(DocumentError):
    """A file that is not the one that the run planned with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentEnd:
    """The end of a document: how much (seconds, or characters but spaces) its segments should cover."""

    amount: float
    timed: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Transcript:
    """The whole text of a document, still to be cut (which needs the encoder's tokenizer)."""

    text: str | tuple[Utterance, ...]


DocumentPart: TypeAlias = AudioSegment | Transcript | DocumentEnd | Quarantined


@dataclass(kw_only=True, slots=True)
class DocumentProgress:
    """A document in progress: its segments' times, texts and features so far, and how it ended."""

    unit: int
    """Place of the document's unit among those that are read together."""
    item: StoredDocument
    key: str
    segments: list[tuple[Seconds, Seconds, str]] = field(default_factory=list)
    features: list[np.ndarray] = field(default_factory=list)
    ended: DocumentEnd | None = None
    failure: Quarantined | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentReader:
    """What reading depends on besides the document. `rate_hz`: what the audio encoder wants."""

    modality: Modality
    rate_hz: Hertz
    config: Config

    def parts(self, item: StoredDocument, key: str) -> Iterator[DocumentPart]:
        """Yield the parts of one document, in order; a failure, whatever it is, is the last of them."""
        read = _read_audio if self.modality == "audio" else _read_text
        parts = read(item, self.rate_hz, self.config)
        while True:
            part = run_or_quarantine(item, key, "read", partial(next, parts, None))
            if part is None:
                return
            yield part
            if isinstance(part, Quarantined):
                return


def run_or_quarantine(item: StoredDocument, key: str, stage: str, action: Callable[[], T]) -> T | Quarantined:
    """Return what an action on a document gives, or, if it fails in any way, the reason in a form to file."""
    try:
        return action()
    except Exception as error:
        return Quarantined(
            doc_id=item.document.doc_id,
            key=key,
            stage=stage,
            error=type(error).__name__,
            message=str(error) or repr(error),
        )


def read(
    works: Iterable[DocumentProgress], reader: DocumentReader
) -> Iterator[tuple[DocumentProgress, DocumentPart]]:
    """Yield the parts of documents one after another, each read when it is asked for."""
    for work in works:
        for part in reader.parts(work.item, work.key):
            yield work, part


def read_ahead(
    works: Iterable[DocumentProgress], reader: DocumentReader
) -> Iterator[tuple[DocumentProgress, DocumentPart]]:
    """Yield what `read` yields, read in advance by threads; what waits in memory is bounded."""
    if reader.modality == "audio":
        yield from draw_ahead(read(works, reader), SEGMENTS_AHEAD)
        return

    def whole(work: DocumentProgress) -> list[tuple[DocumentProgress, DocumentPart]]:
        return list(read([work], reader))

    # Transcripts are small and often objects far away: several are fetched at once.
    with ThreadPoolExecutor(TRANSCRIPTS_AHEAD) as pool:
        waiting: deque[Future[list[tuple[DocumentProgress, DocumentPart]]]] = deque()
        remaining = iter(works)
        while True:
            for work in islice(remaining, TRANSCRIPTS_AHEAD - len(waiting)):
                waiting.append(pool.submit(whole, work))
            if not waiting:
                return
            yield from waiting.popleft().result()


def draw_ahead(items: Iterator[T], most: int) -> Generator[T, None, None]:
    """Yield items that a thread draws up to `most` of them in advance."""
    ready: queue.Queue[list[T]] = queue.Queue(most)
    is_stopped = threading.Event()

    def put(item: list[T]) -> None:
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
            put([])

    with ThreadPoolExecutor(1) as pool:
        drawn = pool.submit(draw)
        try:
            while item := ready.get():
                yield item[0]
        finally:
            is_stopped.set()
        drawn.result()


def _read_audio(item: StoredDocument, rate_hz: Hertz, config: Config) -> Iterator[AudioSegment | DocumentEnd]:
    """Yield the audio segments of a document, then its end; the file must be the one that was planned."""
    document, samples = item.document, 0
    uri = document.audio or ""
    if config.segment.audio == "turns" or config.segment.roles:
        document = replace(document, text=_read_transcript(item, config), text_file=None)

    def counted(blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    blocks = counted(audio.stream(uri, rate_hz))
    yield from audio_segments(document, blocks, rate_hz, config.segment)
    _require_version(item, uri, item.audio_version, config)
    wanted = expected_seconds(document, config.segment, samples / rate_hz)
    yield DocumentEnd(amount=wanted, timed=True)


def _read_text(item: StoredDocument, rate_hz: Hertz, config: Config) -> Iterator[Transcript | DocumentEnd]:
    """Yield the transcript of a document, then its end."""
    text = _read_transcript(item, config) or ""
    _check_times(item.document, text)
    yield Transcript(text=text)
    turns = (Utterance(text=text),) if isinstance(text, str) else text
    roles = () if isinstance(text, str) else config.segment.roles
    wanted = [turn.text for turn in turns if not roles or turn.role in roles]
    yield DocumentEnd(amount=characters(wanted), timed=turns[0].start is not None)


def _check_times(document: Document, text: str | tuple[Utterance, ...]) -> None:
    """Check a transcript's times against the length that its recording's header states."""
    if isinstance(text, str) or text[0].start is None or document.audio is None:
        return
    try:
        duration_s = audio.probe(document.audio).duration_s
    except (DocumentError, OSError):  # what is wrong with the recording is for its own row to say
        return
    check_times(document, text, duration_s)


def _read_transcript(item: StoredDocument, config: Config) -> str | tuple[Utterance, ...] | None:
    """Return the transcript, if there is one; a file must be the one that was planned with."""
    text = load_text(item.document)
    if item.document.text_file is not None:
        _require_version(item, item.document.text_file, item.text_version, config)
    return text


def _require_version(item: StoredDocument, uri: str, planned: str | None, config: Config) -> None:
    found = version_or_absent(uri, config.embed.content_hash)
    if found != planned:
        raise ChangedError(
            f"document {item.document.doc_id!r}: {uri} was version {planned} when the run was planned and is "
            f"{found} now; run again, once nothing writes to it"
        )
