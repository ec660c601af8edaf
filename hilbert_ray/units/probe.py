"""How fast a worker is: a sample of documents done for a while, of which nothing is kept."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic

from hilbert_ray.document import Seconds
from hilbert_ray.store import Quarantined, StoredDocument
from hilbert_ray.units.reading import DocumentEnd, DocumentProgress, DocumentReader, P, read_ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """What one worker did: `seconds` of the plan in `elapsed_s` seconds, `size_bytes` in a store.

    `reason` is the first one for which a document could not be read.
    """

    seconds: Seconds
    elapsed_s: Seconds
    size_bytes: int
    reason: str | None


class Probe(ABC, Generic[P]):
    """Reads and does documents as a worker does, and counts; the first batch only warms up."""

    def __init__(self, entries: Sequence[StoredDocument], reader: DocumentReader[P]) -> None:
        self._entries, self._reader = entries, reader
        self._started: float | None = None  # when the first batch was done
        self._num_ended = 0

    @abstractmethod
    def add(self, document: DocumentProgress, part: P) -> None:
        """Add a part to the batch."""

    @abstractmethod
    def end(self, end: DocumentEnd) -> None:
        """Note that no more parts of a document come."""

    @property
    @abstractmethod
    def is_full(self) -> bool:
        """Whether the batch is large enough to be done."""

    @abstractmethod
    def do(self) -> tuple[Seconds, int]:
        """Do and empty the batch; return its seconds of the plan, and its bytes in a store."""

    def run(self, probe_s: Seconds) -> Measurement:
        """Do documents for about `probe_s` seconds."""
        seconds, size_bytes = 0.0, 0
        reason: str | None = None
        for document, part in read_ahead(self._documents(), self._reader):
            if isinstance(part, Quarantined):
                reason = reason or part.message
                self._num_ended += 1
            elif isinstance(part, DocumentEnd):
                self.end(part)
                self._num_ended += 1
            else:
                self.add(document, part)
                # The first part alone: what is slow only once, such as choosing kernels, must not be
                # measured.
                if self._started is None:
                    self.do()
                    self._started = time.monotonic()
                elif self.is_full:
                    done_s, done_bytes = self.do()
                    seconds, size_bytes = seconds + done_s, size_bytes + done_bytes
                    if time.monotonic() - self._started > probe_s:
                        break
        elapsed_s = 0.0 if self._started is None else time.monotonic() - self._started
        return Measurement(seconds=seconds, elapsed_s=elapsed_s, size_bytes=size_bytes, reason=reason)

    def _documents(self) -> Iterator[DocumentProgress]:
        """Yield the sample over and over, unless none of it could be read."""
        # This runs in the thread that reads ahead. Until a first batch is done, it stops after as many
        # failures as there are documents, or it would loop forever.
        while self._started is not None or self._num_ended < len(self._entries):
            yield from (DocumentProgress(unit=0, entry=entry, source="") for entry in self._entries)
