"""Decoding on any node of the cluster: one Ray task per document, whose segments stream to the worker.

A worker turns to this when it waits for its own decoder (`worker.UnitWorker`). A task stops when a
few of its blocks wait to be taken, so memory is bounded. One that cannot start or is lost costs nothing but
time: the worker then reads the document itself, from the first part that it did not get.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import ray

from hilbert_ray.store import Quarantined, StoredDocument
from hilbert_ray.units.reading import (
    DocumentEnd,
    DocumentPart,
    DocumentProgress,
    DocumentReader,
    DocumentWithPart,
    P,
)

BLOCK_S = 60.0
"""Audio in one object, seconds: 4 MB at 16 kHz, large enough that its transfer costs little per second."""
BLOCKS_AHEAD = 2
"""Objects of a task that may wait to be taken."""
PATIENCE_S = 15.0
"""How long the next block may take before the worker reads the document itself: tasks may be waiting for CPUs
that blocked tasks hold."""


def read_remotely(
    documents: Iterable[DocumentProgress], reader: DocumentReader[P], max_tasks: int
) -> Iterator[DocumentWithPart[P]]:
    """Yield what `reading.read` yields, decoded by up to `max_tasks` Ray tasks at a time."""
    decode = ray.remote(_decode).options(
        num_cpus=1,
        num_returns="streaming",
        max_retries=0,  # this process does it better: it continues where the task broke off
        scheduling_strategy="SPREAD",  # the CPUs of the worker's own node are taken first otherwise
        _generator_backpressure_num_objects=BLOCKS_AHEAD,
    )
    running: deque[tuple[DocumentProgress, Any]] = deque()
    remaining = iter(documents)
    try:
        while True:
            for document in islice(remaining, max_tasks - len(running)):
                running.append((document, decode.remote(reader, document.entry, document.source)))
            if not running:
                return
            # In order, whichever task is ready first: batches must not depend on which was faster.
            document, stream = running[0]
            for part in _parts(document, stream, reader):
                yield document, part
            running.popleft()
    finally:
        for _, stream in running:
            ray.cancel(stream)


def _parts(
    document: DocumentProgress,
    stream: Any,  # noqa: ANN401 - Ray has no type for it
    reader: DocumentReader[P],
) -> Iterator[DocumentPart[P]]:
    """Yield the parts that a task sends; read those here that it can no longer send."""
    received = 0
    try:
        while True:
            ready, _ = ray.wait([stream], timeout=PATIENCE_S)
            if not ready:
                ray.cancel(stream)
                break
            parts: list[DocumentPart[P]] = ray.get(next(stream))
            yield from parts
            received += len(parts)
    except StopIteration:
        return
    # The node or the process is gone: what fails in the document itself arrives as a `Quarantined` part.
    except ray.exceptions.RayError:
        pass
    yield from islice(reader.parts(document.entry, document.source), received, None)


def _decode(reader: DocumentReader[P], entry: StoredDocument, source: str) -> Iterator[list[DocumentPart[P]]]:
    """Yield the parts of a document in lists of about `BLOCK_S` seconds."""
    # In lists, since each object costs messages between nodes, whatever its size.
    block: list[DocumentPart[P]] = []
    seconds = 0.0
    for part in reader.parts(entry, source):
        block.append(part)
        seconds += 0.0 if isinstance(part, DocumentEnd | Quarantined) else reader.seconds(part)
        if seconds >= BLOCK_S:
            yield block
            block, seconds = [], 0.0
    if block:
        yield block
