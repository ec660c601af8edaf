"""Decoding on any node of the cluster: one Ray task a document, whose segments stream to the encoder.

An encoder actor turns to this when it waits for its own decoder (`unit.EmbedUnits`). A task stops when a few
of its blocks wait to be taken, so memory is bounded. One that cannot start or is lost costs nothing but time:
the actor then reads the document itself, from the first part that it did not get.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import ray

from hilbert_ray.document import AudioSegment
from hilbert_ray.embedding.reading import DocumentPart, DocumentProgress, DocumentReader
from hilbert_ray.store import StoredDocument

BLOCK_S = 60.0
"""Audio in one object, seconds."""
BLOCKS_AHEAD = 2
"""Objects of a task that may wait to be taken."""
PATIENCE_S = 15.0
"""How long the next block may take before the actor reads the document itself: tasks may be waiting for CPUs
that blocked tasks hold."""


def read_remotely(
    works: Iterable[DocumentProgress], reader: DocumentReader, tasks: int
) -> Iterator[tuple[DocumentProgress, DocumentPart]]:
    """Yield what `read.read` yields, decoded by up to `tasks` Ray tasks at a time."""
    decode = ray.remote(_decode).options(
        num_cpus=1,
        num_returns="streaming",
        max_retries=0,
        scheduling_strategy="SPREAD",
        _generator_backpressure_num_objects=BLOCKS_AHEAD,
    )
    going: deque[tuple[DocumentProgress, Any]] = deque()
    remaining = iter(works)
    try:
        while True:
            for work in islice(remaining, tasks - len(going)):
                going.append((work, decode.remote(reader, work.item, work.key)))
            if not going:
                return
            work, stream = going[0]
            for part in _parts(work, stream, reader):
                yield work, part
            going.popleft()
    finally:
        for _, stream in going:
            ray.cancel(stream)


def _parts(work: DocumentProgress, stream: Any, reader: DocumentReader) -> Iterator[DocumentPart]:  # noqa: ANN401 - Ray gives no type
    """Yield the parts that a task sends, and those that it no longer can send read here."""
    taken = 0
    try:
        while True:
            ready, _ = ray.wait([stream], timeout=PATIENCE_S)
            if not ready:
                ray.cancel(stream)
                break
            parts: list[DocumentPart] = ray.get(next(stream))
            yield from parts
            taken += len(parts)
    except StopIteration:
        return
    except ray.exceptions.RayError:  # the node or the process is gone
        pass
    yield from islice(reader.parts(work.item, work.key), taken, None)


def _decode(reader: DocumentReader, item: StoredDocument, key: str) -> Iterator[list[DocumentPart]]:
    """Yield the parts of a document in lists of about `BLOCK_S` seconds."""
    block: list[DocumentPart] = []
    seconds = 0.0
    for part in reader.parts(item, key):
        block.append(part)
        seconds += part.end - part.start if isinstance(part, AudioSegment) else 0.0
        if seconds >= BLOCK_S:
            yield block
            block, seconds = [], 0.0
    if block:
        yield block
