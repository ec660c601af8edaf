"""Reading documents for a worker: what comes of each in parts, ahead of the model, with files as planned.

A document comes as parts, the last of which says how it ended. The parts of several documents follow one
another in order, whoever reads them: this thread (`read`), threads ahead of it (`read_ahead`), or Ray tasks
on any node (`remote_decoding.read_remotely`). What the parts are, the reader says.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Generic, TypeAlias, TypeVar

from hilbert_ray import audio
from hilbert_ray.config import Config, parse_channels
from hilbert_ray.document import DocumentError, Hertz, Recognition, Seconds, message_of
from hilbert_ray.segmentation import CountedBlocks
from hilbert_ray.store import Quarantined, StoredDocument
from hilbert_ray.transcript import Flaw
from hilbert_ray.units.plan import version_or_absent

DOCUMENTS_AHEAD = 16
"""Documents that are fetched at a time where each is small."""
T = TypeVar("T")
P = TypeVar("P")
"""What a reader makes of a document, such as a segment of audio."""


class ChangedError(DocumentError):
    """A file that has changed since the run was planned."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentEnd:
    """The end of a document. `timed`: whether its parts have times in seconds.

    expected: the seconds, or characters other than white space, that the parts must cover. flaws: what its
    user should know of a recording, although it can be used. recognition: of the transcript, if one was read
    and is automatic.
    """

    expected: float
    timed: bool
    flaws: tuple[Flaw, ...] = ()
    recognition: Recognition | None = None


DocumentPart: TypeAlias = P | DocumentEnd | Quarantined


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


DocumentWithPart: TypeAlias = tuple[DocumentProgress, DocumentPart[P]]
"""A part and the document that it belongs to."""


class DocumentReader(ABC, Generic[P]):
    """Reads documents, here or in Ray tasks: must be pickled.

    `ahead`: parts that may wait for the model; 0 where documents are small, so that many are fetched at once.
    """

    @property
    @abstractmethod
    def ahead(self) -> int:
        """How many parts may wait."""

    @abstractmethod
    def read(self, entry: StoredDocument) -> Iterator[P | DocumentEnd]:
        """Yield the parts of a document, then its end.

        Raises:
            DocumentError: when a file of it is invalid, or changed after planning.
        """

    @abstractmethod
    def seconds(self, part: P) -> Seconds:
        """Return how long a part is, 0 for text."""

    def parts(self, entry: StoredDocument, source: str) -> Iterator[DocumentPart[P]]:
        """Yield the parts of one document, in order; a failure, whatever it is, is the last of them."""
        parts = self.read(entry)
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


def read(documents: Iterable[DocumentProgress], reader: DocumentReader[P]) -> Iterator[DocumentWithPart[P]]:
    """Yield the parts of documents one after another, each read when it is needed."""
    for document in documents:
        for part in reader.parts(document.entry, document.source):
            yield document, part


def read_ahead(
    documents: Iterable[DocumentProgress], reader: DocumentReader[P]
) -> Iterator[DocumentWithPart[P]]:
    """Yield what `read` yields, read in advance by threads; what waits in memory is bounded."""
    if reader.ahead:
        parts = read(documents, reader)
        yield from draw_ahead(parts, reader.ahead)
        return

    def read_whole(document: DocumentProgress) -> list[DocumentWithPart[P]]:
        parts = read([document], reader)
        return list(parts)

    # Small, and often on a distant server: several are fetched at once.
    with ThreadPoolExecutor(DOCUMENTS_AHEAD) as threads:
        pending: deque[Future[list[DocumentWithPart[P]]]] = deque()
        remaining = iter(documents)
        while True:
            for document in islice(remaining, DOCUMENTS_AHEAD - len(pending)):
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


class Recording:
    """A document's recording as a stream of blocks: read `blocks` to the end, then call `finish`.

    blocks: float32 [samples], or [samples, speakers] where channels are speakers, whom `speakers` names.
    """

    def __init__(self, entry: StoredDocument, rate_hz: Hertz, config: Config) -> None:
        document = entry.document
        channels = document.channels or parse_channels(config.segment.channels)
        self._entry, self._uri, self._config = entry, document.audio or "", config
        self._rate_hz = rate_hz
        self._stream = audio.stream(self._uri, rate_hz, channels=channels)
        self.blocks = CountedBlocks(self._stream)
        self.speakers = channels.roles

    def finish(self) -> tuple[Seconds, tuple[Flaw, ...]]:
        """Return the length of the recording, and what its user should know of it.

        Raises:
            ChangedError: when it is not the file of the plan.
        """
        # After the last byte: a file replaced while it was read would give parts of both versions.
        current = version_or_absent(self._uri, self._config.embed.content_hash)
        check_same(self._entry, self._uri, self._entry.audio_version, current)
        flaws = tuple(Flaw(finding, 0) for finding in self._stream.findings)
        return self.blocks.samples / self._rate_hz, flaws


def check_same(entry: StoredDocument, uri: str, planned: str | None, current: str | None) -> None:
    """Check that files are those that the document's source hash was computed from.

    Raises:
        ChangedError: when they are not.
    """
    if current != planned:
        raise ChangedError(
            f"document {entry.document.doc_id!r}: {uri} was version {planned} when the run was planned and "
            f"is {current} now; files must not change during a run: rerun once nothing writes to it"
        )
