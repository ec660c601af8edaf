"""What a store keeps of documents: features of a modality, or transcripts that a recogniser made.

A data file of transcripts holds one row per document, in columns that pyarrow alone can read:

    doc_id, source  string        the document, and the hash of what its transcript depends on
    transcript      large_binary  the file to publish, JSON in UTF-8
    utterances      int32         how many it has; 0 where no speech was found
    seconds         float64       audio that was heard
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hilbert_ray.config import MODALITIES, Modality
from hilbert_ray.document import Recognition, Seconds
from hilbert_ray.store.features import FeatureRow, decode_rows, encode_rows

Content: TypeAlias = Modality | Literal["transcript"]
CONTENTS: tuple[Content, ...] = (*MODALITIES, "transcript")


class ContentRow(Protocol):
    """A row of a data file; `committed` is what a commit says of it, see `Commit.stored`."""

    @property
    def committed(self) -> tuple[str, str, int, float]:
        """The document, its source, and how much of it is stored: its parts, and seconds or tokens."""

    @property
    def recognition(self) -> Recognition | None:
        """What recognised the automatic transcript that the row was made of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TranscriptRow:
    """The transcript of one document: the bytes of its file, its number of utterances, and seconds heard."""

    doc_id: str
    source: str
    transcript: bytes
    utterances: int
    seconds: Seconds

    @property
    def committed(self) -> tuple[str, str, int, float]:
        """What a commit says of the row."""
        return self.doc_id, self.source, self.utterances, self.seconds

    @property
    def recognition(self) -> Recognition | None:
        """None: the row was made of no transcript."""
        return None


def encode_content(content: Content, rows: Sequence[ContentRow]) -> bytes:
    """Return rows as the bytes of a data file: features of a modality, or transcripts."""
    if content == "transcript":
        return encode_transcripts(cast("Sequence[TranscriptRow]", rows))
    return encode_rows(content, cast("Sequence[FeatureRow]", rows))


def decode_content(content: Content, data: bytes) -> Iterator[ContentRow]:
    """Return the rows of a data file, one by one."""
    return decode_transcripts(data) if content == "transcript" else decode_rows(content, data)


def encode_transcripts(rows: Sequence[TranscriptRow]) -> bytes:
    """Return rows as the bytes of a Parquet file; the same rows always give the same bytes."""
    table = pa.table(
        {
            "doc_id": pa.array([row.doc_id for row in rows], pa.string()),
            "source": pa.array([row.source for row in rows], pa.string()),
            "transcript": pa.array([row.transcript for row in rows], pa.large_binary()),
            "utterances": pa.array([row.utterances for row in rows], pa.int32()),
            "seconds": pa.array([row.seconds for row in rows], pa.float64()),
        }
    )
    # A codec's version would change the bytes.
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="none", use_dictionary=False)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def decode_transcripts(data: bytes) -> Iterator[TranscriptRow]:
    """Return the rows of a data file, one by one."""
    rows = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False).to_pylist()
    return (TranscriptRow(**row) for row in rows)
